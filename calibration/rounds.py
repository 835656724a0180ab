"""The gate, with more chains where that could change what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .gate import GateResult, judge
from .gate_rules import GateRules
from .metrics.score_fidelity import StageFidelity
from .sample_set import SampleSet

__all__ = ["Draw", "Rounds"]

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
        extra = 0
        while True:
            reference = self.reference(extra)
            self._tell(f"judging {name}", 0, 0)
            result = judge(
                reference,
                own,
                fidelity,
                gate=self._rules.gate,
                smallest_difference=self._rules.smallest_difference,
                bias_limit=self._rules.bias_limit,
                temperature=temperature,
                seed=self._rules.seed,
            )
            if result.decided or extra == self._rules.extra_rounds:
                return result, own
            extra += 1
            own = own.join(draw(self._rules.sample_seed(extra, candidate=True)))
