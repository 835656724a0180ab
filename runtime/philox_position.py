"""Moves a Philox generator to any place of its stream.

numpy's own way is to assign a whole state, which takes 1.2 us and is half of what a few numbers cost. Here the words that change
are written into the generator's memory, in 0.2 us: the counter, and that nothing is buffered. numpy gives the memory's address
(`BitGenerator.ctypes`) and does not promise what it looks like, so that is found out first, and where it looks another way, numpy's
own way is taken.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np

__all__ = ["position_setter"]

Move = Callable[[int, int], None]
"""(block, step) -> moves to the counter (0, block, step, 0)."""


class _State(ctypes.Structure):
    """`philox_state` of numpy's philox.h."""

    _fields_ = [
        ("counter", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("buffer_pos", ctypes.c_int),
        ("buffer", ctypes.c_uint64 * 4),
        ("has_uint32", ctypes.c_int),
        ("uinteger", ctypes.c_uint32),
    ]


def position_setter(bits: np.random.Philox) -> Move:
    """Returns what moves a generator that was just made, and has drawn nothing, to a place of its stream."""
    return _in_memory(bits) if _memory_is_known() else _by_state(bits)


def _by_state(bits: np.random.Philox) -> Move:
    origin = bits.state
    counter = origin["state"]["counter"]

    def move(block: int, step: int) -> None:
        counter[1] = block
        counter[2] = step
        bits.state = origin

    return move


def _in_memory(bits: np.random.Philox) -> Move:
    state = _State.from_address(bits.ctypes.state_address)
    counter = (ctypes.c_uint64 * 4).from_address(state.counter)
    empty = len(state.buffer)

    def move(block: int, step: int, bits: np.random.Philox = bits) -> None:  # which keeps the memory alive
        counter[0] = 0
        counter[1] = block
        counter[2] = step
        state.buffer_pos = empty
        state.has_uint32 = 0

    return move


@cache
def _memory_is_known() -> bool:
    """Whether the memory looks as written down above; nothing is read through a pointer before it is known to be one."""
    bits, other = (np.random.Philox(key=np.array([3, 5], np.uint64)) for _ in range(2))
    draw, expected = np.random.Generator(bits), np.random.Generator(other)
    draw.standard_normal(5, dtype=np.float32)  # leaves something buffered
    first, size = id(bits), bits.__sizeof__()
    if bits.ctypes.state_address not in range(first, first + size - ctypes.sizeof(_State) + 1):
        return False
    own = range(first, first + size - 8 * 4 + 1)  # where four words fit into the object
    state, told = _State.from_address(bits.ctypes.state_address), bits.state
    if state.counter not in own or state.key not in own:
        return False
    if state.buffer_pos != told["buffer_pos"] or state.has_uint32 != told["has_uint32"]:
        return False
    counter, key = ((ctypes.c_uint64 * size).from_address(at) for at, size in ((state.counter, 4), (state.key, 2)))
    if list(counter) != told["state"]["counter"].tolist() or list(key) != told["state"]["key"].tolist():
        return False
    _in_memory(bits)(7, 11)
    _by_state(other)(7, 11)
    return bool((draw.standard_normal(64, dtype=np.float32) == expected.standard_normal(64, dtype=np.float32)).all())
