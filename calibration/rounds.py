"""The gate, with more chains where that could change what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .chain_plan import fitted_plan
from .gate import GateResult, judge
from .gate_rules import GateRules
from .metrics.score_fidelity import StageFidelity
from .sample_set import SampleSet

__all__ = ["Draw", "Rounds"]

_ROUNDING = 1e-9
"""So that a subset that follows from a difference that followed from it is no larger by one."""

Draw = Callable[[int], SampleSet]
"""Samples of a seed, as many each time, scored by the FP32 model."""


class Rounds:
    """Judges candidates one after another; FP32's samples are drawn once for all, round by round as they are needed.

    Args:
        rules: what has to be kept.
        reference: draws from FP32.
        tell: called with (what is being done, 0, 0).
    """

    def __init__(self, rules: GateRules, reference: Draw, tell: Callable[[str, int, int], None]) -> None:
        self._rules = rules
        self._draw = reference
        self._tell = tell
        self._pools: list[SampleSet] = []

    def reference(self, extra: int = 0) -> SampleSet:
        """FP32's samples, joined with those of so many extra rounds."""
        while len(self._pools) <= extra:
            more = self._draw(self._rules.sample_seed(len(self._pools), candidate=False))
            self._pools.append(self._pools[-1].join(more) if self._pools else more)
        return self._pools[extra]

    def judge(
        self, name: str, draw: Draw, fidelity: Sequence[StageFidelity], temperature: float
    ) -> tuple[GateResult, SampleSet]:
        """Draws from a candidate and judges it; an open verdict draws more, as often as the rules allow.

        Args:
            name: for the progress.
            draw: draws from the candidate.
            fidelity: its score beside FP32's, by stage.
            temperature: of the samples, see `judge`.

        Returns:
            The last verdict, and all samples that it is of.
        """
        own = draw(self._rules.sample_seed(0, candidate=True))
        rules, extra = self._rules, 0
        # What the first pool can show is what is asked in every round: more chains are for surer answers.
        shown = fitted_plan(rules.gate, rules.smallest_difference, len(own)).smallest_difference
        difference = max(rules.smallest_difference, shown * (1 + _ROUNDING))
        while True:
            reference = self.reference(extra)
            self._tell(f"judging {len(own)} samples of {name}", 0, 0)
            result = judge(
                reference,
                own,
                fidelity,
                gate=rules.gate,
                smallest_difference=difference,
                bias_limit=rules.bias_limit,
                temperature=temperature,
                seed=rules.seed,
            )
            if result.decided or extra == rules.extra_rounds:
                return result, own
            extra += 1
            self._tell(f"undecided about {name}: more samples", 0, 0)
            own = own.join(draw(rules.sample_seed(extra, candidate=True)))
