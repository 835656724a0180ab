"""Whether the options of an export go together, as far as they tell by themselves: before a model is loaded, which may take minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..calibration.observers import OBSERVERS
from ..runtime.arguments import check_choice
from ..runtime.bundle_writer import check_replaceable
from ..runtime.errors import UsageError
from ..runtime.manifest import CALIBRATED
from .gating import Gating
from .plan import plan_artifacts

__all__ = ["check_options"]


def check_options(
    targets: Sequence[str],
    precisions: Sequence[str],
    batch: tuple[int, int, int],
    *,
    out: str | Path,
    force: bool,
    gating: Gating,
    weight_bits: int | None,
    ranges: str | None,
) -> list[tuple[str, str]]:
    """Refuses options of `export` that cannot be, or would have no effect; returns what there is to write, as `plan_artifacts` does.

    Raises:
        UsageError: they do not go together, or something stands at `out` that is not to be replaced.
        MissingBackend: a package is not installed that they need.
    """
    plan = plan_artifacts(targets, precisions, batch)
    calibrates = bool(set(CALIBRATED).intersection(precisions))
    if "mixed" in precisions and gating.rules is None:
        raise UsageError(
            "mixed needs the quality gate, which is what chooses its layers: leave gate=None (--no-gate) out, or export "
            "int8 with it"
        )
    if gating.judges(precisions):
        from ..calibration.metrics import scientific  # noqa: F401  says what is missing
    if gating.seconds is not None and "mixed" not in precisions:
        raise UsageError(
            "search_seconds (--search-seconds) is the time of the search for mixed, and nothing is searched here: ask for mixed with it, or "
            "leave it out"
        )
    if weight_bits not in (None, 7, 8):
        raise UsageError(f"weight_bits: weights have 7 or 8 bits, not {weight_bits!r}")
    if weight_bits is not None and not ("openvino" in targets and calibrates):
        raise UsageError(
            "weight_bits (--weight-bits) is of INT8 weights for OpenVINO, and there are none here: ask for int8 or mixed with the target "
            "openvino, or leave it out"
        )
    if ranges is not None:
        check_choice("ranges", ranges, tuple(OBSERVERS))
        if not calibrates:
            raise UsageError(
                "ranges (--ranges) says how the ranges of INT8 are chosen, and nothing is calibrated here: ask for int8 or mixed with it, "
                "or leave it out"
            )
    check_replaceable(Path(out).absolute(), force)
    return plan
