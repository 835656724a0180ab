"""What is tuned during a warm-up and frozen after it: step sizes, and the scale of the gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .step_adaptation import AdaptationState, StepAdaptation

__all__ = ["WarmUp", "WarmUpState"]


class WarmUpState(NamedTuple):
    """What a step leaves to the next one.

    Attributes:
        adaptation: of the step sizes.
        log_scales: [B] float64, the sum of the logarithms of the gradient scales counted.
        counted: number of steps whose scales are in it.
    """

    adaptation: AdaptationState
    log_scales: np.ndarray
    counted: int


class WarmUp:
    """Tunes a batch of chains, each by itself.

    Args:
        steps: number of steps that it lasts; 0 for none.
        chains: number of chains.
        target: acceptance that step sizes are adapted to, between 0 and 1; not used where there are no steps.

    Attributes:
        steps: number of steps that it lasts.
        state: all that was learned; another one's may be put in its place, to go on from there. Its arrays are never
            written to.
    """

    def __init__(self, steps: int, chains: int, target: float) -> None:
        self.steps = steps
        self._adaptation = StepAdaptation(chains, target)
        self._log_scales = np.zeros(chains)
        self._counted = 0

    @property
    def factor(self) -> np.ndarray:
        """[B] float64, what to multiply the step size by at the next step."""
        return self._adaptation.factor

    @property
    def state(self) -> WarmUpState:
        """See the class."""
        return WarmUpState(self._adaptation.state, self._log_scales, self._counted)

    @state.setter
    def state(self, state: WarmUpState) -> None:
        self._adaptation.state, self._log_scales, self._counted = state

    def update(self, step: int, acceptance: np.ndarray, scale: np.ndarray | None) -> None:
        """Learns from one step.

        Args:
            step: its number, counted from 0.
            acceptance: [B], the probability with which each chain's proposal was accepted.
            scale: [B] float32, the gradient scale that the chains ran with.
        """
        self._adaptation.update(acceptance)
        if 2 * step >= self.steps and scale is not None:  # in the first half a chain still comes from its start
            self._log_scales = self._log_scales + np.log(scale)
            self._counted += 1

    def settle(self, scale: np.ndarray | None) -> np.ndarray:
        """Freezes the step sizes and returns the scale to freeze.

        The scale is the geometric mean over the second half of the warm-up: that of a single state would be far off
        where the state happens to lie next to a minimum, whose gradient is nearly zero.

        Args:
            scale: [B] float32, the gradient scale of the last evaluation, returned where there was no warm-up.
        """
        self._adaptation.settle()
        if self._counted:
            return np.exp(self._log_scales / self._counted).astype(np.float32)
        assert scale is not None, "a sampler that accepts and rejects evaluates its start"
        return scale
