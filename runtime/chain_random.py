"""The random numbers of a batch of chains, step by step."""

from __future__ import annotations

import math

import numpy as np

from .chain_numbers import Chains
from .noise import NoiseSource, Stream
from .noise_ahead import NoiseAhead, pays
from .noise_in_bulk import NoiseInBulk, suits

__all__ = ["ChainRandom"]


class ChainRandom:
    """Random numbers of some chains at one step; `at` and `ahead` give those of other steps.

    Every number depends on the seed, the step and the chain's own number, and on nothing else: asking twice gives the
    same numbers again.

    Args:
        seed: as in `NoiseSource`.
        chains: numbers of the chains.
        shape: shape of one chain's state.
        free: [B * replicas, *S] or [1, *S] float32 of ones and zeros; normal numbers are 0 where it is 0. None is ones
            everywhere.
        replicas: states of each chain; they follow one another in every array, so that an array has B * replicas rows.
        attempt: as in `NoiseSource`.

    Attributes:
        step: the step that the numbers belong to.
    """

    __slots__ = (
        "_ahead",
        "_attempt",
        "_chains",
        "_free",
        "_replicas",
        "_seed",
        "_shape",
        "_sources",
        "_stride",
        "step",
    )

    def __init__(
        self,
        seed: int,
        chains: Chains,
        shape: tuple[int, ...],
        free: np.ndarray | None = None,
        replicas: int = 1,
        attempt: int = 0,
    ) -> None:
        self.step = 0
        self._seed = seed
        self._attempt = attempt
        self._chains = chains
        self._shape = shape
        self._free = free
        self._replicas = replicas
        self._ahead: NoiseAhead | NoiseInBulk | None = None
        self._stride = 1
        self._sources: dict[Stream, NoiseSource] = {}

    def at(self, step: int) -> ChainRandom:
        """Returns the numbers of the same chains at another step; it draws from the same generators."""
        other = object.__new__(ChainRandom)
        other.step = step
        other._seed, other._chains, other._shape, other._attempt = self._seed, self._chains, self._shape, self._attempt
        other._free, other._replicas, other._sources = self._free, self._replicas, self._sources
        other._ahead, other._stride = self._ahead, self._stride
        return other

    def draw_ahead(self, steps: int, stride: int = 1, first: int = 0, *, in_bulk: bool = True) -> None:
        """Has normal numbers drawn before they are asked for, where that pays: see `NoiseAhead` and `NoiseInBulk`.

        Args:
            steps: number of steps in all.
            stride: steps that `normals` is asked for at once; with 1, `normal` is asked for each.
            first: the step that will be asked for first.
            in_bulk: whether those of a thousand steps may be drawn at once, which makes one step in a thousand long.
        """
        shape = (len(self._chains) * self._replicas, *self._shape)
        chains = self._chains
        plain = self._free is None and self._replicas == 1
        if in_bulk and plain and isinstance(chains, range) and suits(chains, self._shape, steps):
            source = self._source(Stream.STEPS)
            self._ahead, self._stride = NoiseInBulk(source, chains, self._shape, steps, stride), stride
            return
        if not pays(math.prod(shape), stride):
            return
        source = NoiseSource(self._seed, Stream.STEPS, self._attempt)  # the thread's own
        self._stride = stride
        if stride == 1:
            self._ahead = NoiseAhead(lambda step, out: self._fill(source, step, out), shape, steps, first=first)
        else:
            self._ahead = NoiseAhead(
                lambda step, out: self._fill_steps(source, step, out), (stride, *shape), steps, stride, first
            )

    def close(self) -> None:
        """Ends what `draw_ahead` began."""
        if self._ahead is not None:
            self._ahead.close()

    def ahead(self, steps: int) -> ChainRandom:
        """Returns the numbers of the same chains some steps later."""
        return self.at(self.step + steps)

    def normal(self, stream: Stream = Stream.STEPS, out: np.ndarray | None = None) -> np.ndarray:
        """Draws standard normals in the shape of the states.

        Args:
            stream: what they are for.
            out: [B * replicas, *S] float32, C-contiguous, to write into; None allocates.

        Returns:
            [B * replicas, *S] float32: `out` where it was given. Numbers that were drawn ahead are in an array of their own,
            and stay what they are until the next are asked for.
        """
        if self._ahead is not None and self._stride == 1 and stream is Stream.STEPS:
            return self._ahead.take(self.step)
        if out is None:
            out = np.empty((len(self._chains) * self._replicas, *self._shape), dtype=np.float32)
        self._fill(self._source(stream), self.step, out)
        return out

    def normals(self, out: np.ndarray) -> np.ndarray:
        """Draws the standard normals of this step and of those that follow, as `normal` gives them step by step.

        Args:
            out: [steps, B * replicas, *S] float32, C-contiguous, to write into.

        Returns:
            An array in the shape of `out`: `out` itself, or one that was drawn ahead, as for `normal`.
        """
        if self._ahead is not None and self._stride == len(out):
            return self._ahead.take(self.step)
        self._fill_steps(self._source(Stream.STEPS), self.step, out)
        return out

    def uniform(self, stream: Stream = Stream.ACCEPT) -> np.ndarray:
        """Draws numbers uniformly from [0, 1) with 48 bits each.

        The 24 bits of a float32 would be 0 once in 2**24 draws and so accept the impossible that often.

        Args:
            stream: what they are for.

        Returns:
            [B * replicas] float64.
        """
        halves = self._source(stream).uniform(self.step, self._chains, self._of_a_chain((2,)))
        halves = halves.reshape(-1, 2).astype(np.float64)
        return np.asarray(halves[:, 0] + halves[:, 1] * 2.0**-24)

    def _fill(self, source: NoiseSource, step: int, out: np.ndarray) -> None:
        of_a_chain = self._of_a_chain(self._shape)
        source.normal(step, self._chains, of_a_chain, out.reshape(len(self._chains), *of_a_chain))
        if self._free is not None:
            out *= self._free

    def _fill_steps(self, source: NoiseSource, step: int, out: np.ndarray) -> None:
        of_a_chain = self._of_a_chain(self._shape)
        source.normals(step, self._chains, of_a_chain, out.reshape(len(out), len(self._chains), *of_a_chain))
        if self._free is not None:
            out *= self._free

    def _of_a_chain(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self._replicas == 1 else (self._replicas, *shape)

    def _source(self, stream: Stream) -> NoiseSource:
        source = self._sources.get(stream)
        if source is None:
            source = self._sources[stream] = NoiseSource(self._seed, stream, self._attempt)
        return source
