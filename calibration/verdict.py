"""What the gate found: one verdict per metric, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .metrics.score_fidelity import StageFidelity

__all__ = ["GateResult", "MetricVerdict"]


@dataclass(frozen=True)
class MetricVerdict:
    """One metric: how far off the candidate is, beside what it was compared with."""

    metric: str
    """Name of the metric."""
    value: float
    """The candidate's distance from FP32; for the score, the size of its gain or bias."""
    floor: float
    """What `value` is divided by: the seed noise floor, or for the score the largest bias that is let pass."""
    ratio: float
    """value / floor, what is compared with `limit`; infinite where only the floor is 0."""
    low: float
    """Lower end of the 95 % confidence interval of `ratio`."""
    high: float
    """Upper end of it."""
    limit: float
    """The metric passes where `ratio` is at most this."""
    p_value: float | None
    """Of a test that both pools have one distribution; None where the metric has no such test."""
    passed: bool
    """Whether the metric lets the candidate pass; where not `decided`, by the point estimate."""
    decided: bool
    """False where the interval leaves it open and more chains could settle it."""
    note: str = ""
    """Anything a reader should know, in one line."""

    @property
    def compared(self) -> bool:
        """False where there is nothing to compare, as with one mode: FP32 is at no distance from itself, nor is the candidate from it."""
        return not self.value == self.floor == 0


@dataclass(frozen=True)
class GateResult:
    """Whether a candidate's samples are as close to FP32 samples as those are to each other, and how that is known."""

    passed: bool
    """Every verdict passed."""
    decided: bool
    """False where more chains could change `passed`: see `MetricVerdict.decided`."""
    verdicts: tuple[MetricVerdict, ...]
    """One per metric in force."""
    fidelity: tuple[StageFidelity, ...]
    """The score's fidelity by stage, as it was given."""
    chains: int
    """Chains in each pool."""
    subset: int
    """Chains in each of the sets that are compared, n; energies are compared in sets of 2 n (`plan_chains`)."""
    smallest_difference: float
    """Shift of the energy, in its standard deviations, that raises the ratio to the gate with this `subset`."""
    gate: float
    """Largest ratio that passes."""
    reason: str
    """One line: what failed and by how much, or that everything passed."""

    @property
    def ratios(self) -> list[MetricVerdict]:
        """The verdicts that are ratios to the seed noise floor, of those that compared something, if any did; others have limits of their own."""
        found = [verdict for verdict in self.verdicts if verdict.limit == self.gate]
        return [verdict for verdict in found if verdict.compared] or found

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON; numbers that JSON does not have are "inf", "-inf" and "nan"."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> GateResult:
        """Returns what `to_dict` was made from.

        Raises:
            TypeError: an entry is missing or unknown.
        """
        values = dict(entries)
        values["verdicts"] = tuple(MetricVerdict(**_numbers(entry)) for entry in values["verdicts"])
        values["fidelity"] = tuple(StageFidelity(**_numbers(entry)) for entry in values["fidelity"])
        return cls(**_numbers(values))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _numbers(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: float(value) if value in ("inf", "-inf", "nan") and name not in ("metric", "note", "reason") else value
        for name, value in entries.items()
    }
