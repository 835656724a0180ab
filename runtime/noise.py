"""Random numbers that depend on the seed, the step and the chain, and on nothing else.

A counter-based generator (Philox 4x64: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
turns a position straight into a random number. The position here is

    key     = (seed, stream)
    counter = (0, block of chains, step, 0)        the first word counts on while numbers are drawn

so that the noise of chain 70 at step 12 is the same in a batch of 8 or of 800, in one process or split over
several, and in a run that was resumed. Two engines can then be compared under common random numbers.

Chains are grouped into blocks because moving the counter costs 0.2 to 1 us and a draw call another 0.5 us, against
8 ns per float32 normal (measured on one x86-64 core): with one block per chain, chains of two numbers would pay
most of their time for moving. A block holds as many chains as make up `BLOCK_NUMBERS` numbers, so the
moving costs at most about 5 %. Inside a block the numbers are drawn in order, so asking for chains from the
middle of a block draws and drops those before; that wastes at most `BLOCK_NUMBERS` numbers (33 us) per
call, and nothing where chains are asked for from the start of a block. Chains of more than `BLOCK_NUMBERS / 2`
numbers get a block each.

The normals are numpy's (a ziggurat on float32). numpy promises the same bits for the same version; between versions
and machines they have been the same in practice, but numpy reserves the right to change them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from .chain_numbers import Chains
from .errors import UsageError
from .philox_position import position_setter

__all__ = ["BLOCK_NUMBERS", "CHAINS", "NoiseSource", "Stream", "chains_in_block", "normal", "uniform"]

_ATTEMPT = 64  # between the streams of two attempts; more than there will ever be streams

BLOCK_NUMBERS = 4096  # float32 numbers in one block of chains; changing it changes every sample ever drawn

CHAINS = 2**63 - BLOCK_NUMBERS
"""Numbers of chains are below this, and one after the last is at most this: a GPU counts to the end of the last chain's block in 63 bits,
and a block has as many chains as `BLOCK_NUMBERS` at most."""


def chains_in_block(size: int) -> int:
    """Returns how many chains of `size` numbers make up a block."""
    return max(1, BLOCK_NUMBERS // max(1, size))


class Stream(enum.IntEnum):
    """What the numbers are for; two streams of one seed share no number."""

    STEPS = 0
    START = 1
    DATA = 2
    ACCEPT = 3
    CORRECT = 4
    MOMENTUM = 5
    SWAP = 6
    REPLAY = 7


class _Key(ISeedSequence):
    """The two words of a Philox key. Given as `key=`, numpy asks the system for random bits beside them, which it has no use for."""

    def __init__(self, *words: int) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.array(self._words, dtype)


class NoiseSource:
    """Draws from one stream of one seed.

    It holds one bit generator whose counter is moved for each block, see `philox_position.py`; making a new one takes 4 us. It keeps nothing between calls: the order of calls does not matter. Threads
    need one source each.

    Args:
        seed: at least 0 and below 2**64.
        stream: what the numbers are for.
        attempt: how often the chain was started anew; each attempt has numbers of its own.

    Raises:
        UsageError: the seed is out of range.
    """

    def __init__(self, seed: int, stream: Stream = Stream.STEPS, attempt: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise UsageError(f"seed: expected a whole number from 0 to 2**64 - 1, got {seed!r}")
        self._bits = np.random.Philox(_Key(seed, stream + _ATTEMPT * attempt))  # type: ignore[arg-type]  # numpy's stubs know its own alone
        self._generator = np.random.Generator(self._bits)
        self._move_to = position_setter(self._bits)

    @property
    def key(self) -> tuple[int, int]:
        """The two words of Philox's key, for whoever draws the same numbers elsewhere."""
        seed, stream = self._bits.state["state"]["key"].tolist()
        return seed, stream

    def normal(self, step: int, chains: Chains, shape: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray:
        """Draws standard normals.

        Args:
            step: number of the step, at least 0.
            chains: chain numbers.
            shape: shape of one chain's state.
            out: [len(chains), *shape] float32, C-contiguous, to write into; None allocates.

        Returns:
            [len(chains), *shape] float32: `out` where it was given.
        """
        return self._fill(self._generator.standard_normal, step, chains, shape, out)

    def normals(self, first: int, chains: Chains, shape: tuple[int, ...], out: np.ndarray) -> None:
        """Draws standard normals of consecutive steps, the numbers that `normal` gives for each.

        Args:
            first: number of the first step, at least 0.
            chains: as for `normal`, like the shape.
            shape: shape of one chain's state.
            out: [steps, len(chains), *shape] float32, C-contiguous, to write into.
        """
        size = math.prod(shape)
        block_chains = chains_in_block(size)
        block, skipped = divmod(chains[0], block_chains)
        if skipped or len(chains) > block_chains or not isinstance(chains, range):
            for row, numbers in enumerate(out):
                self.normal(first + row, chains, shape, numbers)
            return
        # Few numbers at each step: then what is around the draw counts.
        draw, move_to = self._generator.standard_normal, self._move_to
        for step, numbers in enumerate(out.reshape(len(out), -1), start=first):
            move_to(block, step)
            draw(None, np.float32, numbers)

    def uniform(self, step: int, chains: Chains, shape: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray:
        """Draws numbers uniformly from [0, 1); arguments and result are those of `normal`."""
        return self._fill(self._generator.random, step, chains, shape, out)

    def _fill(
        self,
        draw: Callable[..., np.ndarray],
        step: int,
        chains: Chains,
        shape: tuple[int, ...],
        out: np.ndarray | None,
    ) -> np.ndarray:
        if out is None:
            out = np.empty((len(chains), *shape), dtype=np.float32)
        assert out.shape == (len(chains), *shape) and out.flags.c_contiguous
        size = math.prod(shape)  # numbers in one chain
        block_chains = chains_in_block(size)
        if not isinstance(chains, range):
            return self._fill_some(draw, step, chains, block_chains, out)
        assert chains.step == 1
        flat = out.reshape(-1)
        block, skipped = divmod(chains.start, block_chains)
        if not skipped and len(chains) <= block_chains:  # the usual case, in a third of the time around the draw
            self._move_to(block, step)
            draw(None, np.float32, flat)
            return out
        chain = chains.start
        while chain < chains.stop:
            block, skipped = divmod(chain, block_chains)
            stop = min(chains.stop, (block + 1) * block_chains)
            self._move_to(block, step)
            if skipped:
                draw(size=skipped * size, dtype=np.float32)
            draw(out=flat[(chain - chains.start) * size : (stop - chains.start) * size], dtype=np.float32)
            chain = stop
        return out

    def _fill_some(
        self, draw: Callable[..., np.ndarray], step: int, chains: Chains, block_chains: int, out: np.ndarray
    ) -> np.ndarray:
        """Draws each block once, up to the last of its chains that is asked for: one by one they would draw what is before each."""
        row = 0
        for block, members in groupby(chains, lambda chain: chain // block_chains):
            first = block * block_chains
            places = [chain - first for chain in members]
            drawn = self._fill(draw, step, range(first, first + places[-1] + 1), out.shape[1:], None)
            out[row : row + len(places)] = drawn[places]
            row += len(places)
        return out


def normal(
    seed: int,
    step: int,
    chains: range,
    shape: tuple[int, ...],
    out: np.ndarray | None = None,
    stream: Stream = Stream.STEPS,
) -> np.ndarray:
    """Draws standard normals for one step; `NoiseSource` does the same and is faster in a loop.

    Args:
        seed: at least 0 and below 2**64.
        step: number of the step, at least 0.
        chains: consecutive chain numbers, without gaps.
        shape: shape of one chain's state.
        out: [len(chains), *shape] float32, C-contiguous, to write into; None allocates.
        stream: what the numbers are for.

    Returns:
        [len(chains), *shape] float32.
    """
    return NoiseSource(seed, stream).normal(step, chains, shape, out)


def uniform(
    seed: int,
    step: int,
    chains: range,
    shape: tuple[int, ...],
    out: np.ndarray | None = None,
    stream: Stream = Stream.STEPS,
) -> np.ndarray:
    """Draws numbers uniformly from [0, 1); arguments and result are those of `normal`."""
    return NoiseSource(seed, stream).uniform(step, chains, shape, out)
