"""What the quality gate asks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GateRules"]


@dataclass(frozen=True)
class GateRules:
    """What has to be kept.

    Attributes:
        gate: largest ratio to the seed noise floor that passes.
        smallest_difference: shift of the energy that should be seen, in its standard deviations; the number of
            chains follows from it.
        bias_limit: largest gain and bias of the gradient that pass, relative to its rms; twice that at each condition.
        extra_rounds: times that more chains are drawn for a verdict that is not decided, or more trajectories for one on the score.
        seed: FP32 draws with this one, candidates with the next, the trajectory of the score with the one after.
    """

    gate: float = 1.25
    smallest_difference: float = 0.15
    bias_limit: float = 0.01
    extra_rounds: int = 2
    seed: int = 0

    def trajectory_seed(self, extra: int = 0) -> int:
        """Seed of the chains along which scores are compared; 0 is the first round."""
        return self.seed + 10 * extra + 2

    def sample_seed(self, extra: int, *, candidate: bool) -> int:
        """Seed of the samples of an extra round; 0 is the first."""
        return self.seed + 10 * extra + candidate
