"""How often a sampler's proposals were accepted."""

from __future__ import annotations

from .progress import Progress

__all__ = ["AcceptanceMeter"]


class AcceptanceMeter:
    """A callback that averages acceptance over chains and over the steps after the warm-up.

    In exact sampling the acceptance of blocks says how near the low-precision energy is to the exact one: it is 1 where
    the two differ by a constant, and falls as their difference varies, in units of the temperature, from one end of a
    block to the other.

    Attributes:
        acceptance: mean probability with which a step was accepted; None for a sampler that does not reject, or where
            there was no step.
        block_acceptance: mean probability with which a block of exact sampling was accepted; None elsewhere.
    """

    def __init__(self) -> None:
        self._sums = {"acceptance": 0.0, "block_acceptance": 0.0}
        self._counts = {"acceptance": 0, "block_acceptance": 0}

    def __call__(self, now: Progress) -> None:
        """Takes one step in."""
        if now.info is None or now.warming_up:
            return
        for name in self._sums:
            probabilities = getattr(now.info, name, None)
            if probabilities is not None:
                self._sums[name] += float(probabilities.sum())
                self._counts[name] += probabilities.size

    @property
    def acceptance(self) -> float | None:
        """See the class."""
        return self._mean("acceptance")

    @property
    def block_acceptance(self) -> float | None:
        """See the class."""
        return self._mean("block_acceptance")

    def _mean(self, name: str) -> float | None:
        return self._sums[name] / self._counts[name] if self._counts[name] else None
