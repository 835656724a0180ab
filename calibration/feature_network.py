"""A user's own network as what samples are compared by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..runtime.errors import LoadError, UsageError

__all__ = ["feature_network"]


def feature_network(path: str | Path, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Opens an ONNX network from x to features; with Inception's, the Frechet distance is the FID.

    Args:
        path: a graph with one input [B, *S] float32, whose first output is [B, ..] float32.
        shape: S.

    Returns:
        A function from [B, *S] float32 to [B, D] float32.

    Raises:
        LoadError: there is no such file, or onnxruntime cannot run it.
        UsageError: it does not take x or does not give numbers for each sample.
    """
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise LoadError(f"--features: there is no file {path}; give an .onnx file, or pixels for x itself")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise LoadError(f"--features: onnxruntime cannot load {path}: {str(error).strip().splitlines()[0]}") from error
    ports = session.get_inputs()
    if len(ports) != 1:
        raise UsageError(f"--features: {path} has the inputs {', '.join(port.name for port in ports)}; expected x alone")
    output = session.get_outputs()[0].name

    def features(x: np.ndarray) -> np.ndarray:
        try:
            found = np.asarray(session.run([output], {ports[0].name: x})[0])
        except Exception as error:
            raise UsageError(
                f"--features: {path} cannot take x of shape [B, {', '.join(map(str, shape))}]: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        if found.ndim < 1 or len(found) != len(x):
            raise UsageError(f"--features: {path} gives {list(found.shape)} for {len(x)} samples; expected one row each")
        return found.reshape(len(x), -1)

    features(np.zeros((2, *shape), np.float32))  # an error now is better than one after the sampling
    return features
