"""What samples are compared by, where their own numbers are not it.

A feature function takes states [B, *S] float32 to [B, D]. There are three kinds:
- the states themselves ("pixels"): no function at all, `SampleSet.features` stays None;
- the model's own features: `score_graph_features`, an inner tensor of the FP32 score graph;
- a network of the user's: `OnnxFeatures`. With the Inception network of Heusel et al. the Frechet distance is the FID.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.errors import LoadError, MissingBackend, UsageError
from ...runtime.onnxruntime_library import import_onnxruntime

__all__ = ["OnnxFeatures", "score_graph_features"]

_LEARNED = ("Conv", "Gemm", "MatMul")


class OnnxFeatures:
    """A feature network in an ONNX file, run by onnxruntime on the CPU.

    Args:
        network: the file, or a serialised model.
        output: name of the output that holds the features; None takes the first.
        prepare: turns [B, *S] states into what the network wants, such as its size, channels and range.
        inputs: arrays for the network's other inputs by name, one row each, which all samples share.
        threads: threads that one call may use; None leaves it to onnxruntime.
        called: what errors call it.

    Raises:
        MissingBackend: onnxruntime is not installed.
        LoadError: the file is no network that onnxruntime can run.
        UsageError: a name is unknown, or an input has no array.
    """

    def __init__(
        self,
        network: str | Path | bytes,
        *,
        output: str | None = None,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
        inputs: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
        called: str = "the feature network",
    ) -> None:
        onnxruntime = import_onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads or 0
        settings.log_severity_level = 3  # errors only
        name = called if isinstance(network, bytes) else str(network)
        if not isinstance(network, bytes) and not Path(network).is_file():
            raise LoadError(f"there is no feature network {name}")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                network if isinstance(network, bytes) else str(network), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own kinds of error have no common base but this one
            raise LoadError(f"onnxruntime cannot load {name}: {str(error).splitlines()[0]}") from error
        names = [port.name for port in self._session.get_inputs()]
        self._others = {key: np.asarray(array) for key, array in (inputs or {}).items()}
        for key in self._others:
            if key not in names:
                raise UsageError(f"{name}: {key!r} is none of its inputs {', '.join(names)}")
        free = [key for key in names if key not in self._others]
        if len(free) != 1:
            raise UsageError(
                f"{name}: expected one input for the samples, got {', '.join(free) or 'none'}; give arrays for the others"
            )
        outputs = [port.name for port in self._session.get_outputs()]
        if output is not None and output not in outputs:
            raise UsageError(f"{name}: {output!r} is none of its outputs {', '.join(outputs)}")
        self._input = free[0]
        self._output = output or outputs[0]
        self._prepare = prepare
        self._called = called

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Returns the features of samples.

        Args:
            x: [B, *S] float32.

        Returns:
            [B, D] float64. A feature map [B, C, *places] becomes its mean over places, as the FID's are.

        Raises:
            UsageError: the network takes no such samples, or does not answer with one row for each.
        """
        given = np.ascontiguousarray(self._prepare(x) if self._prepare else x, np.float32)
        feeds = {
            name: np.ascontiguousarray(np.broadcast_to(array, (len(given), *array.shape[1:])))
            for name, array in self._others.items()
        }
        try:
            (found,) = self._session.run([self._output], {self._input: given, **feeds})
        except Exception as error:  # as above
            raise UsageError(
                f"{self._called} does not take samples of {list(given.shape[1:])}: {str(error).splitlines()[0]}; "
                "turn them into what it wants inside of it, or in Python with prepare="
            ) from error
        rows = np.asarray(found, np.float64)
        if rows.ndim < 2 or len(rows) != len(given):
            raise UsageError(
                f"{self._called}'s output {self._output!r}: expected [{len(given)}, D], got {list(rows.shape)}"
            )
        return rows.reshape(*rows.shape[:2], -1).mean(axis=2)


def score_graph_features(
    path: str | Path,
    *,
    tensor: str | None = None,
    cond: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
) -> OnnxFeatures:
    """Returns the model's own features: an inner tensor of its FP32 score graph.

    Args:
        path: the score graph's ONNX file.
        tensor: name of the tensor, [B, D] or [B, C, *places]. None takes the input of the last learned layer (Conv, Gemm
            or MatMul with a constant) on the way to the energy: what the model has made of x before it adds it up.
        cond: conditioning arrays by name, one row each, which all samples share.
        threads: threads that one call may use.

    Raises:
        MissingBackend: onnx or onnxruntime is not installed.
        LoadError: the file is no ONNX model.
        UsageError: the tensor is unknown, or none can be found.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingBackend(
            "features of the model's own need the package onnx: pip install 'ebm-export[export]'"
        ) from error
    if not Path(path).is_file():
        raise LoadError(f"there is no score graph {path}")
    model = onnx.load(str(path))
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    if tensor is None:
        constants = {array.name for array in graph.initializer}
        constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        tensor = _last_learned_input("energy", made, constants)
        if tensor is None:
            raise UsageError(f"{Path(path).name}: no learned layer leads to its energy; name a tensor")
    if tensor not in made:
        raise UsageError(f"{Path(path).name}: it has no tensor {tensor!r} of its own")
    del graph.output[:]
    graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    others = {name: np.asarray(array) for name, array in (cond or {}).items()}
    if any(port.name == "grad_scale" for port in graph.input):
        others["grad_scale"] = np.ones(1, np.float32)
    return OnnxFeatures(model.SerializeToString(), output=tensor, inputs=others, threads=threads)


def _last_learned_input(output: str, made: Mapping[str, Any], constants: set[str]) -> str | None:
    """Walks back from an output, breadth first, to the nearest learned layer whose input is computed.

    A layer's input that is itself an input of the graph says nothing of the model, so the walk goes on past it.
    """
    waiting, seen = [output], {output}
    while waiting:
        name = waiting.pop(0)
        node = made.get(name)
        if node is None:
            continue
        if node.op_type in _LEARNED and any(given in constants for given in node.input):
            computed = [given for given in node.input if given in made and given not in constants]
            if computed:
                return computed[0]
        for given in node.input:
            if given and given not in seen:
                seen.add(given)
                waiting.append(given)
    return None
