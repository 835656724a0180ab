"""Which artifacts an export writes, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.batch_range import parse_batch_range
from ..runtime.errors import MissingBackend, UsageError
from ..runtime.manifest import CALIBRATED
from .precision import LOW_TYPES
from .targets import target

__all__ = ["PRECISIONS", "plan_artifacts"]

PRECISIONS = ("fp32", *LOW_TYPES, *CALIBRATED)
"""The precisions that can be exported."""


def plan_artifacts(
    targets: Sequence[str], precisions: Sequence[str], batch: tuple[int, int, int]
) -> list[tuple[str, str]]:
    """Returns (target, precision) pairs in the order of work, those included that another one needs.

    Args:
        targets: of onnx, onnxruntime, openvino, tensorrt.
        precisions: of `PRECISIONS`.
        batch: smallest, most frequent and largest batch.

    Raises:
        UsageError: there is no such target, precision or range of batches.
        MissingBackend: a target's package is not installed.
    """
    for what, given in (("targets", targets), ("precisions", precisions)):
        if isinstance(given, str):
            raise UsageError(f"{what}: expected a list of names, such as [{given!r}], got the text {given!r}")
    for precision in precisions:
        if precision not in PRECISIONS:
            several = ": one text for each of several, as in ['fp32', 'int8']" if "," in precision else ""
            raise UsageError(f"the precisions are {', '.join(PRECISIONS)}; there is none called {precision!r}{several}")
    if not targets or not precisions:
        raise UsageError("at least one target and one precision are needed")
    parse_batch_range(":".join(map(str, batch)))
    names = list(dict.fromkeys(targets))
    for name in names:
        missing = target(name).available()
        if missing is not None:
            raise MissingBackend(missing)
    if "tensorrt" in names and "onnx" not in names:
        names.insert(0, "onnx")  # a device whose TensorRT differs builds its own plan from it
    names.sort(key=lambda name: name == "tensorrt")  # a plan is built from the graph that the file before it holds
    wanted = list(dict.fromkeys(precisions))
    if "mixed" in wanted and "fp32" not in wanted:
        wanted.insert(0, "fp32")  # which a schedule over the steps may end in
    wanted.sort(key=lambda precision: precision == "mixed")  # as in the others that are asked for
    return [(name, precision) for precision in wanted for name in names]
