"""Philox at many counters, against numpy's generator one after another."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime.philox import WORDS, philox_words

KEYS = [(0, 0), (7, 3), (2**64 - 1, 2**63 + 64)]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("block", [0, 5, 2**64 - 1])
@pytest.mark.parametrize("steps", [range(3), range(2**32 - 2, 2**32 + 2), range(2**63 - 1, 2**63 + 1)])
def test_words_are_numpys(key: tuple[int, int], block: int, steps: range) -> None:
    bits = np.random.Philox(key=np.array(key, np.uint64))
    wanted = []
    for step in steps:
        state = bits.state
        state["state"]["counter"] = np.array([0, block, step, 0], np.uint64)
        state["buffer_pos"], state["has_uint32"] = 4, 0
        bits.state = state
        wanted.append([bits.ctypes.next_uint32(bits.ctypes.state_address) for _ in range(WORDS)])
    np.testing.assert_array_equal(philox_words(key, block, steps), np.array(wanted, np.uint32))
