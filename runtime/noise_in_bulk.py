"""The noise of a thousand steps at once, for chains of few numbers.

A generator that is moved for each step costs 1 us a step, whether it draws two numbers or ten: a sixth of a small perceptron's step.
The first words of a thousand counters, computed together, cost 0.4 us a step. The bits are the generator's; where numpy came to draw
otherwise, `_draws_as_numpy` would say so and nobody would use this.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from .noise import NoiseSource, chains_in_block
from .philox import WORDS, philox_words
from .ziggurat import normals_of_words

__all__ = ["NoiseInBulk", "suits"]

_AT_A_TIME = 1024
_LEAST_STEPS = 512
"""Steps from which the few hundred operations on arrays cost less than moving a generator would."""


def suits(chains: range, shape: tuple[int, ...], steps: int) -> bool:
    """Whether these chains get their noise sooner like this; arguments as for `NoiseInBulk`."""
    size = math.prod(shape)
    few = len(chains) * size <= WORDS and chains.start % chains_in_block(size) == 0
    return few and steps >= _LEAST_STEPS and _draws_as_numpy()


class NoiseInBulk:
    """Gives the normals of consecutive steps.

    Args:
        source: draws where few steps are left, and what the first words do not decide.
        chains: numbers of the chains, from the beginning of a block on.
        shape: of one chain's numbers; all chains together have at most `WORDS`.
        steps: number of steps; nothing is drawn beyond the last.
        stride: steps that are asked for together.
    """

    def __init__(self, source: NoiseSource, chains: range, shape: tuple[int, ...], steps: int, stride: int = 1) -> None:
        self._source, self._chains, self._shape = source, chains, shape
        self._steps, self._stride = steps, stride
        self._drawn = range(0)
        self._numbers = np.empty(0, dtype=np.float32)

    def take(self, step: int) -> np.ndarray:
        """Returns the numbers of a step [B, *S] float32, or with a stride above one of as many steps [stride, B, *S].

        The array stays what it is until the next call. Any step may be asked for.
        """
        if not self._drawn.start <= step <= self._drawn.stop - self._stride:
            left = self._steps - step
            count = min(left, max(_AT_A_TIME, self._stride)) if left >= _LEAST_STEPS else self._stride
            self._drawn = range(step, step + count)
            self._numbers = np.empty((count, len(self._chains), *self._shape), dtype=np.float32)
            if count < _LEAST_STEPS:
                self._source.normals(step, self._chains, self._shape, self._numbers)
            else:
                _fill(self._source, self._drawn, self._chains, self._numbers)
        at = step - self._drawn.start
        return self._numbers[at] if self._stride == 1 else self._numbers[at : at + self._stride]

    def close(self) -> None:
        """Frees nothing: there is no thread."""


def _fill(source: NoiseSource, steps: range, chains: range, out: np.ndarray) -> None:
    """Writes the normals of some chains [steps, B, *S]."""
    flat = out.reshape(len(steps), -1)
    block = chains.start // chains_in_block(math.prod(out.shape[2:]))
    words = philox_words(source.key, block, steps)[:, : flat.shape[1]]
    flat[:], final = normals_of_words(np.ascontiguousarray(words))
    for index in np.unique(np.flatnonzero(~final) // flat.shape[1]).tolist():
        source.normal(steps[index], chains, out.shape[2:], out[index])


@cache
def _draws_as_numpy() -> bool:
    """Whether the numbers are those of this numpy's generator; found out once, in a millisecond."""
    source, steps, chains = NoiseSource(2**63 + 11), range(2**40, 2**40 + 512), range(4096, 4097)
    ours, numpys = (np.empty((len(steps), 1, WORDS), dtype=np.float32) for _ in range(2))
    _fill(source, steps, chains, ours)
    source.normals(steps.start, chains, (WORDS,), numpys)
    return np.array_equal(ours.view(np.uint32), numpys.view(np.uint32))
