"""Step sizes that reach a wanted acceptance, found during a warm-up and then frozen.

Dual averaging (Hoffman and Gelman, "The No-U-Turn Sampler", JMLR 2014, section 3.2.1, with their constants) for each chain
by itself, so that a chain stays independent of the others. With a_m the acceptance at step m and d the target, the
logarithm of the time step, which is half that of the step size, becomes

    log e_{m+1} = mu - sqrt(m) / 0.05 * 1 / (m + 10) * sum_{i<=m} (d - a_i),        mu = log(10 e_1)

and the frozen value is the average of these with weights m^-0.75.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["StepAdaptation"]

_SHRINKAGE = 0.05
_STABILIZER = 10.0
_FORGETTING = 0.75
_HEADSTART = math.log(10.0)
# A time step is changed by at most this factor; beyond it something else is wrong, and float32 stays far from its ends.
_LARGEST_CHANGE = math.log(2.0) * 40


class StepAdaptation:
    """Finds a factor of the step size for each chain.

    Args:
        chains: number of chains.
        target: the acceptance to reach, between 0 and 1.

    Attributes:
        factor: [B] float64, what to multiply the step size by at the next step.
    """

    def __init__(self, chains: int, target: float) -> None:
        self.factor = np.ones(chains)
        self._target = target
        self._steps = 0
        self._error_sum = np.zeros(chains)
        self._average = np.zeros(chains)  # of the logarithm of the time step

    def update(self, acceptance: np.ndarray) -> None:
        """Learns from one step.

        Args:
            acceptance: [B], the probability with which each chain's proposal was accepted.
        """
        self._steps += 1
        m = float(self._steps)
        self._error_sum += self._target - acceptance
        log_step = _HEADSTART - math.sqrt(m) / _SHRINKAGE / (m + _STABILIZER) * self._error_sum
        np.clip(log_step, -_LARGEST_CHANGE, _LARGEST_CHANGE, out=log_step)
        weight = m**-_FORGETTING
        self._average = weight * log_step + (1 - weight) * self._average
        self.factor = np.exp(2 * log_step)

    def settle(self) -> None:
        """Sets the factor to the average, for good; where there was no step it stays 1."""
        self.factor = np.exp(2 * self._average)
