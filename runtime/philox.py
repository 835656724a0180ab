"""Philox 4x64 at many counters at once.

The function of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), with ten rounds, as numpy's generator computes
it one counter after another.
"""

from __future__ import annotations

import numpy as np

__all__ = ["WORDS", "philox_words"]

WORDS = 8
"""32-bit words from one counter."""

# Of the paper: multipliers, and what is added to the key from round to round.
_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], dtype=np.uint64)
_WEYL = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], dtype=np.uint64)
_ROUNDS = 10
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)
_MULTIPLIERS_LOW, _MULTIPLIERS_HIGH = _MULTIPLIERS & _LOW, _MULTIPLIERS >> _HALF


def philox_words(key: tuple[int, int], block: int, steps: range) -> np.ndarray:
    """Returns the words that a generator gives first after its counter was moved to (0, block, step, 0).

    Args:
        key: of the generator, two numbers below 2**64.
        block: second word of the counter, like the step below 2**64.
        steps: third words of the counters.

    Returns:
        [len(steps), WORDS] uint32, in the order in which numpy hands them out.
    """
    count = len(steps)
    # Words 0 and 2, which are multiplied, and words 1 and 3. numpy counts on before it computes.
    even, odd = np.empty((2, count), dtype=np.uint64), np.zeros((2, count), dtype=np.uint64)
    even[0], even[1], odd[0] = 1, np.arange(steps.start, steps.stop, dtype=np.uint64), block
    keys = np.array(key, dtype=np.uint64)[:, None]
    for turn in range(_ROUNDS):
        if turn:
            keys = keys + _WEYL  # numbers of 64 bits, which wrap around
        high, low = _products(even)
        even = high[::-1]
        even ^= odd
        even ^= keys
        odd = low[::-1]
    words = np.empty((count, 4), dtype="<u8")
    words[:, ::2], words[:, 1::2] = even.T, odd.T
    return words.view("<u4").astype(np.uint32, copy=False)


def _products(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of the products of both rows [2, N] with their multipliers, from products of halves."""
    words_low, words_high = words & _LOW, words >> _HALF
    carry = _MULTIPLIERS_LOW * words_low
    carry >>= _HALF
    middle = _MULTIPLIERS_LOW * words_high
    words_low *= _MULTIPLIERS_HIGH
    words_high *= _MULTIPLIERS_HIGH
    carry += middle & _LOW
    carry += words_low & _LOW
    carry >>= _HALF
    middle >>= _HALF
    words_low >>= _HALF
    words_high += middle
    words_high += words_low
    words_high += carry
    return words_high, words * _MULTIPLIERS
