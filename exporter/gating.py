"""What an export judges by its samples, and how."""

from __future__ import annotations

import glob
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..calibration.chain_plan import plan_chains
from ..calibration.gate_rules import GateRules
from ..calibration.sample_networks import SampleNetworks, check_networks, sample_networks
from ..runtime.errors import UsageError
from ..runtime.manifest import CALIBRATED, ModelSpec
from .conditions import Conditions

__all__ = ["Gating", "gating_for"]

_QUICK = 60.0
"""Seconds that all of an export's FP16 and BF16 engines may take for first samples that nobody asked it to draw."""


@dataclass(frozen=True)
class Gating:
    """What is judged, and how.

    Attributes:
        rules: of the gate; None judges nothing.
        low_seconds: FP16 and BF16 engines go through it where drawing the first samples takes at most so long: infinity for in any
            case, 0 for never.
        why_not: with 0, why FP16 and BF16 are not, where somebody may wonder.
        log: file that a search resumes from; the target's name is put before its ending. None keeps none.
        seconds: time of a search, after which it begins no new trial; None for no limit.
        features: what samples are compared by; see `sample_networks`.
        classes: what tells their modes; None for clusters.
    """

    rules: GateRules | None = None
    low_seconds: float = 0.0
    why_not: str = ""
    log: Path | None = None
    seconds: float | None = None
    features: str = "pixels"
    classes: Path | None = None

    def judges(self, precisions: Sequence[str]) -> bool:
        """Whether samples of an export in these precisions are judged in any case."""
        return self.may_judge(precisions) and self.low_seconds == math.inf

    def may_judge(self, precisions: Sequence[str]) -> bool:
        """Whether they are judged if that takes little time."""
        return self.rules is not None and self.low_seconds > 0 and set(precisions) != {"fp32"}

    @property
    def if_quick(self) -> bool:
        """Whether it depends on the time whether FP16 and BF16 are judged: nobody asked for it then."""
        return 0 < self.low_seconds < math.inf

    @property
    def chains(self) -> int:
        """Chains that the first samples of an engine are of."""
        return 0 if self.rules is None else plan_chains(self.rules.gate, self.rules.smallest_difference).pool

    def networks(self, model: ir.Model, conditions: Conditions, spec: ModelSpec, folder: Path) -> SampleNetworks:
        """What samples are compared by; the model's own features are those of its whole graph, at the first of the conditions.

        Args:
            model: the lowered float32 graph.
            conditions: those of the export.
            spec: what the energy takes.
            folder: for a file that does not stay.
        """
        # The system's folder may be small, and is not cleared where we are killed.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:

            def own() -> tuple[Path, dict[str, np.ndarray]]:
                path = Path(scratch) / "score.onnx"
                ir.save(model, path)
                types = {entry.name: entry.dtype for entry in spec.cond}
                return path, {name: rows[:1].astype(types[name]) for name, rows in conditions.judged.items()}

            return sample_networks(self.features, self.classes, own, spec.x.shape)

    def log_of(self, name: str) -> Path | None:
        """The log of the search for a target."""
        return None if self.log is None else self.log.with_name(f"{self.log.stem}.{name}{self.log.suffix}")

    def remove_logs(self) -> None:
        """Searches that ended need their logs no more."""
        if self.log is not None:
            for log in self.log.parent.glob(f"{glob.escape(self.log.stem)}.*{self.log.suffix}"):
                log.unlink()


def gating_for(
    precisions: Sequence[str],
    gate: float | None,
    *,
    smallest_difference: float,
    out: Path,
    seconds: float | None = None,
    all_low: bool = False,
    features: str = "pixels",
    classes: str | Path | None = None,
) -> Gating:
    """What an export judges.

    Args:
        precisions: of the export. INT8 and mixed are judged, and FP16 and BF16 beside them: FP32's samples are there then. Alone, FP16
            and BF16 are judged where that is quick and the packages for it are installed.
        gate: largest ratio; None judges nothing.
        smallest_difference: that the gate should see.
        out: the bundle; a search keeps its log beside it until the export is done.
        seconds: limit of a search.
        all_low: FP16 and BF16 are judged in any case.
        features: what samples are compared by; another than "pixels" has FP16 and BF16 judged in any case.
        classes: what tells their modes; given, it does so too.
    """
    named = features != "pixels" or classes is not None
    if named and (gate is None or set(precisions) == {"fp32"}):
        raise UsageError(
            "features and classes (--features, --classes) are what the gate compares samples by, and nothing goes through it here: ask "
            "for int8 or another low precision with them, and leave gate=None (--no-gate) out"
        )
    if gate is None:
        if all_low:
            raise UsageError("gate_all asks for the gate and gate=None turns it off: leave one of them out")
        return Gating()
    # Both refuse what cannot be, before any work.
    plan_chains(gate, smallest_difference)
    check_networks(features, classes)
    rules = GateRules(gate=gate, smallest_difference=smallest_difference)
    out = out.absolute()  # "." has no name
    log = out.with_name(f"{out.name}.search.jsonl")
    in_any_case = all_low or named or any(precision in CALIBRATED for precision in precisions)
    low_seconds, why_not = (math.inf if in_any_case else _QUICK), ""
    # FP32 alone has nothing to judge, and need not import what judges.
    if not in_any_case and set(precisions) != {"fp32"} and not _can_compare():
        low_seconds, why_not = 0.0, "what compares samples is not installed: pip install 'ebm-export[calibration]'"
    return Gating(rules, low_seconds, why_not, log, seconds, features, None if classes is None else Path(classes))


def _can_compare() -> bool:
    """Whether what compares samples is installed."""
    try:
        from ..calibration.metrics import scientific  # noqa: F401
    except Exception:  # missing, or broken, which is no reason to end an export that did not ask for it
        return False
    return True
