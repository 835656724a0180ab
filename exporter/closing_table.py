"""The table that ebm-export ends with: what was written, how far it is from PyTorch, what the gate said, and how fast it is."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..calibration.chain_plan import fitted_plan
from ..calibration.verdict import GateResult
from ..runtime.bench import time_bundle
from ..runtime.verify import is_judged, tolerance
from .export import ExportReport
from .hardly_faster import hardly_faster
from .targets import Progress
from .targets.score import engine_files_of, files_of

__all__ = ["closing_table", "how_judged"]

_LOOKS_WRONG = 0.05
"""Relative error of a gradient from which an INT8 engine gets a word about it: what FP16 and BF16 may be off by."""
_LOG = logging.getLogger("ebm_export")


def closing_table(
    report: ExportReport, *, fused: bool, gated: bool, batch: int, progress: Progress
) -> list[dict[str, Any]]:
    """Times the engines of an export and returns a row for each: its file, precision, size, status, worst error and note among others.

    Engines of low precision that are no faster than float32, or hardly, are warned of.

    Args:
        report: of the export.
        fused: whether it wrote fused steps, whose size has a column of its own.
        gated: whether it had a gate; where it had none, nobody is told how engines would be judged.
        batch: samples in the step that is timed.
        progress: called with (what is being done, done, in all).
    """
    timed_rows = time_bundle(report.path, batches=[batch], fused=False, progress=progress)
    for said in hardly_faster(timed_rows):
        _LOG.warning(said)
    times = {row["file"]: row for row in timed_rows}
    found = {verification.path: verification for verification in report.verifications}
    precisions = {artifact["precision"] for artifact in report.artifacts}
    rows = []
    for artifact in report.artifacts:
        # What --fuse adds holds the steps' graph many times over: beside the engine's size, not in it.
        engine, whole = (_size(report.path, files(artifact)) for files in (engine_files_of, files_of))
        added = {"added by --fuse": f"{whole - engine:.2f} MiB"} if fused else {}
        verification = found.get(artifact["path"])
        ran = verification is not None and not verification.reason
        stages = verification.stages if verification is not None and ran else []
        worst = max((stage.relative_error for stage in stages), default=None)
        timed = times.get(artifact["path"])
        gate = report.gates.get(artifact["path"])
        rows.append(
            {
                "file": artifact["path"],
                "precision": artifact["precision"],
                "size": f"{engine:.2f} MiB",
                **added,
                "status": artifact["status"],
                "worst error": None if worst is None else f"{worst:.1e}",
                "limit": None if worst is None else _limit(artifact["precision"], gate is not None),
                "gate": _gate_said(artifact, gate),
                f"ms per step (batch {batch})": None if timed is None else timed["median ms"],
                "note": "; ".join(
                    filter(
                        None,
                        (
                            artifact["note"],
                            "" if worst is None else _why_so_far_off(artifact["precision"], worst, gate is not None),
                            _how_to_judge(artifact, precisions) if gate is None and gated else "",
                        ),
                    )
                ),
            }
        )
    return rows


def _gate_said(artifact: Any, gate: Any) -> str | None:
    """The verdict; None where there is none to have: FP32 is what others are compared with, and a plan is judged as its ONNX file."""
    if gate is not None:
        return f"{'passed' if gate.passed else 'failed'}, {_worst(gate):.2f}"
    return None if artifact["precision"] == "fp32" or artifact["target"] == "tensorrt" else "not judged"


def how_judged(gates: Iterable[GateResult]) -> str:
    """What the verdicts in the column `gate` rest on, for a line below the table; "" where nothing was judged.

    Args:
        gates: what the gate found of each engine. Some may have more chains than others: an open case has more drawn.
    """
    found = sorted(gates, key=lambda gate: gate.chains)
    if not found:
        return ""
    few, most = found[0], found[-1]
    chains = f"{few.chains}" if few.chains == most.chains else f"{few.chains} to {most.chains}"
    sure = fitted_plan(few.gate, few.smallest_difference, few.chains).sure_difference
    return (
        f"the gate compared {chains} chains of each engine with as many of FP32's; a ratio above {few.gate:g} fails. It sees a shift of "
        f"the energy by {few.smallest_difference:.2g} of its standard deviations half of the time, by {sure:.2g} 95 times in 100, and "
        "may miss a smaller one; manifest.json has every metric"
    )


def _how_to_judge(artifact: Any, precisions: Collection[str]) -> str:
    """What to do about an engine that no gate judged; empty where its samples are not judged by themselves.

    Args:
        artifact: its entry.
        precisions: of the bundle.
    """
    if (
        _gate_said(artifact, None) is None or "mixed" not in precisions
    ):  # the notes of others say why they were not judged
        return ""
    return f"--precision {artifact['precision']} has the export judge them too, and ebm-compare judges the bundle"


def _limit(precision: str, gated: bool) -> str:
    """What the worst error of an engine is held to."""
    if is_judged(precision):
        return f"{tolerance(precision).relative_error:.0e}"
    return "the gate" if gated else "none"


def _why_so_far_off(precision: str, worst: float, gated: bool) -> str:
    """What to make of a worst error that looks like a failure, of an engine that is kept; empty where it does not."""
    cause = "rounding moves small gradients most, and a relu's gradient jumps where a sum is near zero"
    if is_judged(precision):
        if worst <= tolerance(precision).relative_error:
            return ""
        return f"the worst error is above the limit at a state where PyTorch's own, by rounding, is half as large or more, which passes ({cause})"
    if worst <= _LOOKS_WRONG:
        return ""
    decides = "do, and passed the gate" if gated else "would, and no gate judged them"
    return f"the worst error is that of one state, the farthest off, and decides nothing in {precision}: its samples {decides} ({cause})"


def _size(folder: Path, names: Sequence[str]) -> float:
    """MiB of these files."""
    return sum((folder / name).stat().st_size for name in names) / 2**20


def _worst(gate: Any) -> float:
    """The largest ratio to the seed noise floor."""
    return max((verdict.ratio for verdict in gate.ratios), default=0.0)
