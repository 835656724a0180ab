"""How often a sampler's proposals were accepted."""

from __future__ import annotations

import numpy as np

from .progress import Progress

__all__ = ["AcceptanceMeter"]


class AcceptanceMeter:
    """A callback that averages acceptance over the steps after the warm-up, of the chains that become samples.

    A chain that diverged is left out, whether it is dropped or run again: what was proposed to it, and refused from where its energy
    was no number on, is in no sample. The run that takes its place counts.

    In exact sampling the acceptance of blocks says how near the low-precision energy is to the exact one: it is 1 where
    the two differ by a constant, and falls as their difference varies, in units of the temperature, from one end of a
    block to the other.

    Attributes:
        acceptance: mean probability with which a step was accepted; None for a sampler that does not reject, or where
            there was no step.
        block_acceptance: mean probability with which a block of exact sampling was accepted; None elsewhere.
    """

    def __init__(self) -> None:
        self._means = {"acceptance": _Mean(), "block_acceptance": _Mean()}

    def __call__(self, now: Progress) -> None:
        """Takes one step in."""
        for name, mean in self._means.items():
            if now.info is None:  # the start of a batch, after the end of another
                mean.settle()
            mean.diverged = now.diverged
            probabilities = getattr(now.info, name, None)
            if probabilities is not None and not now.warming_up:
                mean.take(probabilities.reshape(len(now.chains), -1))

    @property
    def acceptance(self) -> float | None:
        """See the class."""
        return self._means["acceptance"].value

    @property
    def block_acceptance(self) -> float | None:
        """See the class."""
        return self._means["block_acceptance"].value


class _Mean:
    """A mean over chains, of which those of the batch that runs may still diverge.

    Attributes:
        diverged: [B] bool, chains of that batch which have; None where none has.
    """

    def __init__(self) -> None:
        self.diverged: np.ndarray | None = None
        self._sum, self._count = 0.0, 0  # of batches before
        self._sums, self._each = np.zeros(0), 0  # [B] of each chain of this one, and how many numbers it has

    def take(self, numbers: np.ndarray) -> None:
        """Takes in numbers [B, K] of the batch's chains."""
        self._sums = numbers.sum(axis=1) + (self._sums if self._each else 0.0)
        self._each += numbers.shape[1]

    def settle(self) -> None:
        """The batch is at its end."""
        self._sum, self._count = self._total()
        self._each, self.diverged = 0, None

    @property
    def value(self) -> float | None:
        total, count = self._total()
        return total / count if count else None

    def _total(self) -> tuple[float, int]:
        if not self._each:
            return self._sum, self._count
        well = self._sums if self.diverged is None else self._sums[~self.diverged]
        return self._sum + float(well.sum()), self._count + self._each * len(well)
