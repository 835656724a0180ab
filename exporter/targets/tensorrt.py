"""Target tensorrt: a plan, built by whichever of `tensorrt` and `tensorrt_rtx` is installed."""

from __future__ import annotations

from pathlib import Path

import onnx

from ...runtime.errors import UnsupportedOperation
from ...runtime.plan_layers import layers_said
from ...runtime.tensorrt_library import build_plan, fingerprint, missing_tensorrt
from .artifact import Artifact, Progress, add_note
from .refusal import placed

__all__ = ["available", "write"]


def available() -> str | None:
    """None when one of the two libraries is installed, else a sentence that names both extras."""
    missing = missing_tensorrt()
    return None if missing is None else f"target 'tensorrt' cannot be written: {missing}"


def write(
    graph: onnx.ModelProto,
    folder: Path,
    *,
    precision: str,
    batch: tuple[int, int, int],
    role: str = "score",
    progress: Progress | None = None,
) -> Artifact:
    """Writes `role.precision.tensorrt.plan`.

    A device that is not the one the plan was built for builds its own from the ONNX file, so the bundle needs
    the target onnx in this precision as well.

    Args:
        graph: the score graph typed in `precision`, float32 at its border.
        folder: an existing folder.
        precision: fp32, fp16, bf16 ...
        batch: smallest, most frequent and largest batch that the plan takes.
        role: score, prologue or sampler.
        progress: called as the build goes on.

    Raises:
        MissingBackend, UsageError, EbmExportError: as `build_plan`.
        UnsupportedOperation: as `build_plan`; the message names the operation, its module and its source line.
    """
    try:
        plan = build_plan(graph.SerializeToString(), batch=batch, progress=progress)
    except UnsupportedOperation as error:
        raise placed(error, graph, "tensorrt") from error
    path = folder / f"{role}.{precision}.tensorrt.plan"
    path.write_bytes(plan.data)
    made_by = fingerprint()
    toolchain = {made_by.library: made_by.version}
    if made_by.device is not None and made_by.compute_capability is not None:
        toolchain |= {"device": made_by.device, "compute_capability": made_by.compute_capability}
    artifact = Artifact(
        path=path.name,
        target="tensorrt",
        precision=precision,
        role=role,
        files=[],
        toolchain=toolchain,
        options={"batch": list(batch)},
        status="built, not run",
        note="" if made_by.device is not None else "built on a machine without a GPU",
    )
    if role != "sampler":  # which repeats its score graph
        artifact["layers"] = plan.layers
        add_note(artifact, layers_said(plan.layers))
    return artifact
