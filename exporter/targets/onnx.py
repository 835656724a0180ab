"""Target onnx: the typed score graph itself, for any ONNX runtime and for building a TensorRT plan on a device."""

from __future__ import annotations

from pathlib import Path

import onnx

from .artifact import Artifact, Progress
from .check import check

__all__ = ["available", "write"]


def available() -> str | None:
    """Always None: the exporter needs onnx itself."""
    return None


def write(
    graph: onnx.ModelProto,
    folder: Path,
    *,
    precision: str,
    batch: tuple[int, int, int],
    role: str = "score",
    progress: Progress | None = None,
) -> Artifact:
    """Writes `role.precision.onnx`.

    Args:
        graph: the score graph typed in `precision`, float32 at its border.
        folder: an existing folder.
        precision: fp32, fp16, bf16 ...
        batch: smallest, most frequent and largest batch; an ONNX file takes any.
        role: score, prologue or sampler.
        progress: not called, writing a file takes no time worth showing.

    Raises:
        UnsupportedOperation, EbmExportError: as `check`.
    """
    check(graph, target="onnx", precision=precision, role=role)
    path = folder / f"{role}.{precision}.onnx"
    onnx.save(graph, path)
    return Artifact(
        path=path.name,
        target="onnx",
        precision=precision,
        role=role,
        files=[],
        toolchain={"onnx": onnx.__version__},
        options={},
        status="built, not run",
        note="",
    )
