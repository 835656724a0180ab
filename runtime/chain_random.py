"""The random numbers of a batch of chains, step by step."""

from __future__ import annotations

import numpy as np

from .noise import NoiseSource, Stream

__all__ = ["ChainRandom"]


class ChainRandom:
    """Random numbers of some chains at one step; `at` and `ahead` give those of other steps.

    Every number depends on the seed, the step and the chain's own number, and on nothing else: asking twice gives the
    same numbers again.

    Args:
        seed: as in `NoiseSource`.
        chains: numbers of the chains.
        shape: shape of one chain's state.
        free: [B, *S] or [1, *S] float32 of ones and zeros; normal numbers are 0 where it is 0. None is ones everywhere.

    Attributes:
        step: the step that the numbers belong to.
    """

    __slots__ = ("_chains", "_free", "_seed", "_shape", "_sources", "step")

    def __init__(self, seed: int, chains: range, shape: tuple[int, ...], free: np.ndarray | None = None) -> None:
        self.step = 0
        self._seed = seed
        self._chains = chains
        self._shape = shape
        self._free = free
        self._sources: dict[Stream, NoiseSource] = {Stream.STEPS: NoiseSource(seed)}

    def at(self, step: int) -> ChainRandom:
        """Returns the numbers of the same chains at another step; it draws from the same generators."""
        other = object.__new__(ChainRandom)
        other.step = step
        other._seed, other._chains, other._shape = self._seed, self._chains, self._shape
        other._free, other._sources = self._free, self._sources
        return other

    def ahead(self, steps: int) -> ChainRandom:
        """Returns the numbers of the same chains some steps later."""
        return self.at(self.step + steps)

    def normal(self, stream: Stream = Stream.STEPS, out: np.ndarray | None = None) -> np.ndarray:
        """Draws standard normals in the shape of the states.

        Args:
            stream: what they are for.
            out: [B, *S] float32, C-contiguous, to write into; None allocates.

        Returns:
            [B, *S] float32: `out` where it was given.
        """
        numbers = self._source(stream).normal(self.step, self._chains, self._shape, out)
        if self._free is not None:
            numbers *= self._free
        return numbers

    def uniform(self, stream: Stream = Stream.ACCEPT, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Draws numbers uniformly from [0, 1) with 48 bits each.

        The 24 bits of a float32 would be 0 once in 2**24 draws and so accept the impossible that often.

        Args:
            stream: what they are for.
            shape: of one chain's numbers.

        Returns:
            [B, *shape] float64.
        """
        halves = self._source(stream).uniform(self.step, self._chains, (*shape, 2)).astype(np.float64)
        return np.asarray(halves[..., 0] + halves[..., 1] * 2.0**-24)

    def _source(self, stream: Stream) -> NoiseSource:
        source = self._sources.get(stream)
        if source is None:
            source = self._sources[stream] = NoiseSource(self._seed, stream)
        return source
