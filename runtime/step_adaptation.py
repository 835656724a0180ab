"""Step sizes that reach a wanted acceptance, found during a warm-up and then frozen.

Dual averaging (Hoffman and Gelman, "The No-U-Turn Sampler", JMLR 2014, section 3.2.1, with their constants) for each chain
by itself, so that a chain stays independent of the others. With a_m the acceptance at step m and d the target, the
logarithm of the time step, which is half that of the step size, becomes

    log e_{m+1} = mu - sqrt(m) / 0.05 * 1 / (m + 10) * sum_{i<=m} (d - a_i),        mu = log(10 e_1)

and the frozen value is the average of these with weights m^-0.75.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

__all__ = ["AdaptationState", "StepAdaptation"]

_SHRINKAGE = 0.05
_STABILIZER = 10.0
_FORGETTING = 0.75
_HEADSTART = math.log(10.0)
# A time step is changed by at most this factor; beyond it something else is wrong, and float32 stays far from its ends.
_LARGEST_CHANGE = math.log(2.0) * 40


class AdaptationState(NamedTuple):
    """What a step leaves to the next one.

    Attributes:
        factor: [B] float64, what to multiply the step size by at the next step.
        error_sum: [B] float64, the sum of (d - a_i).
        average: [B] float64, the weighted average of log e.
        steps: number of steps (m) learned from.
    """

    factor: np.ndarray
    error_sum: np.ndarray
    average: np.ndarray
    steps: int


class StepAdaptation:
    """Finds a factor of the step size for each chain.

    Args:
        chains: number of chains.
        target: the acceptance to reach, between 0 and 1.

    Attributes:
        state: all that was learned; another one's may be put in its place, to go on from there. Its arrays are never
            written to.
    """

    def __init__(self, chains: int, target: float) -> None:
        self.state = AdaptationState(np.ones(chains), np.zeros(chains), np.zeros(chains), 0)
        self._target = target

    @property
    def factor(self) -> np.ndarray:
        """[B] float64, what to multiply the step size by at the next step."""
        return self.state.factor

    def update(self, acceptance: np.ndarray) -> None:
        """Learns from one step.

        Args:
            acceptance: [B], the probability with which each chain's proposal was accepted.
        """
        m = float(self.state.steps + 1)
        error_sum = self.state.error_sum + (self._target - acceptance)
        log_step = _HEADSTART - math.sqrt(m) / _SHRINKAGE / (m + _STABILIZER) * error_sum
        np.clip(log_step, -_LARGEST_CHANGE, _LARGEST_CHANGE, out=log_step)
        weight = m**-_FORGETTING
        average = weight * log_step + (1 - weight) * self.state.average
        self.state = AdaptationState(np.exp(2 * log_step), error_sum, average, self.state.steps + 1)

    def settle(self) -> None:
        """Sets the factor to the average, for good; where there was no step it stays 1."""
        self.state = self.state._replace(factor=np.exp(2 * self.state.average))
