"""Target onnxruntime: a score graph that onnxruntime's CPU provider can run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import onnx
import onnx_ir as ir

from ..emulate import emulate
from ..passes.order import KeepOrder
from ..passes.series import SeriesAsImages
from ..passes.sums import SumByProduct
from .artifact import Artifact, Progress
from .check import check

__all__ = ["available", "write"]


def available() -> str | None:
    """None when onnxruntime is installed, else a sentence that says it is not."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed: pip install ebm-export"
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
    """Writes `role.precision.onnxruntime.onnx`.

    A BF16 graph is written with BF16 weights and float32 arithmetic, since the CPU provider has no BF16 kernels. An
    FP16 graph is left as it is: on x86 the provider does the same with it by itself.

    Args:
        graph: the score graph typed in `precision`, float32 at its border.
        folder: an existing folder.
        precision: fp32, fp16, bf16 ...
        batch: smallest, most frequent and largest batch; onnxruntime takes any.
        role: score, prologue or sampler.
        progress: not called, writing a file takes no time worth showing.

    Raises:
        UnsupportedOperation, EbmExportError: as `check`.
    """
    note = ""
    if precision == "bf16":
        graph = emulate(graph, rounding=False)
        note = "weights in BF16, arithmetic in float32: onnxruntime's CPU provider has no BF16 kernels"
    elif precision == "fp16":
        note = "weights in FP16; onnxruntime's CPU provider computes in float32 on x86"
    model = ir.from_proto(graph)
    if any([rewrite(model).modified for rewrite in (KeepOrder(), SeriesAsImages(), SumByProduct())]):
        graph = ir.to_proto(model)
    check(graph, target="onnxruntime", precision=precision, role=role)
    path = folder / f"{role}.{precision}.onnxruntime.onnx"
    onnx.save(graph, path)
    return Artifact(
        path=path.name,
        target="onnxruntime",
        precision=precision,
        role=role,
        files=[],
        toolchain={"onnxruntime": importlib.metadata.version("onnxruntime")},
        options={},
        status="built, not run",
        note=note,
    )
