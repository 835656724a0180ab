"""What an export judges by its samples, and how."""

from __future__ import annotations

import glob
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


@dataclass(frozen=True)
class Gating:
    """What is judged, and how.

    Attributes:
        rules: of the gate; None judges nothing.
        all_low: whether FP16 and BF16 engines go through it too, and not only INT8 and mixed ones.
        log: file that a search resumes from; the target's name is put before its ending. None keeps none.
        seconds: time of a search, after which it begins no new trial; None for no limit.
        features: what samples are compared by; see `sample_networks`.
        classes: what tells their modes; None for clusters.
    """

    rules: GateRules | None = None
    all_low: bool = False
    log: Path | None = None
    seconds: float | None = None
    features: str = "pixels"
    classes: Path | None = None

    def judges(self, precisions: Sequence[str]) -> bool:
        """Whether samples of an export in these precisions are judged."""
        return self.rules is not None and self.all_low and set(precisions) != {"fp32"}

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
        precisions: of the export. INT8 and mixed are judged, and FP16 and BF16 beside them: FP32's samples are there then.
        gate: largest ratio; None judges nothing.
        smallest_difference: that the gate should see.
        out: the bundle; a search keeps its log beside it until the export is done.
        seconds: limit of a search.
        all_low: FP16 and BF16 are judged in any case.
        features: what samples are compared by.
        classes: what tells their modes.
    """
    asked = all_low
    all_low = asked or any(precision in CALIBRATED for precision in precisions)
    if (features != "pixels" or classes is not None) and (gate is None or not all_low or set(precisions) == {"fp32"}):
        raise UsageError(
            "features and classes (--features, --classes) are what the gate compares samples by, and nothing goes through it here: ask "
            "for int8 or mixed with it, or have fp16 and bf16 judged (gate_all=True, --gate 1.25)"
        )
    if gate is None:
        if asked:
            raise UsageError("gate_all asks for the gate and gate=None turns it off: leave one of them out")
        return Gating()
    # Both refuse what cannot be, before any work.
    plan_chains(gate, smallest_difference)
    check_networks(features, classes)
    rules = GateRules(gate=gate, smallest_difference=smallest_difference)
    out = out.absolute()  # "." has no name
    log = out.with_name(f"{out.name}.search.jsonl")
    return Gating(rules, all_low, log, seconds, features, None if classes is None else Path(classes))
