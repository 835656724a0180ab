"""Moving a generator in memory and by numpy's own way."""

from __future__ import annotations

import ctypes
import gc
import sys

import numpy as np
import pytest

from ebm_export.runtime import philox_position
from ebm_export.runtime.noise import NoiseSource
from ebm_export.runtime.philox_position import _by_state, _in_memory, _memory_is_known, position_setter

PLACES = [(0, 0), (3, 2**40), (2**63, 5), (3, 0), (0, 1)]


def bits() -> np.random.Philox:
    return np.random.Philox(key=np.array([2**64 - 1, 67], np.uint64))


def test_this_numpy_is_known() -> None:
    assert _memory_is_known()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_numbers(count: int, dtype: type) -> None:
    one, two = bits(), bits()
    ways = [(_in_memory(one), np.random.Generator(one)), (_by_state(two), np.random.Generator(two))]
    for place in PLACES:
        drawn = []
        for move, generator in ways:
            move(*place)
            drawn.append((generator.standard_normal(count, dtype=dtype), generator.random(count, dtype=dtype)))
        np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
        np.testing.assert_array_equal(drawn[0][1], drawn[1][1])
        assert one.state["state"]["counter"].tolist() == two.state["state"]["counter"].tolist()


def test_the_generator_lives_as_long_as_what_moves_it() -> None:
    generator = bits()
    holders = sys.getrefcount(generator)
    move = position_setter(generator)  # writes into the generator's memory
    gc.collect()
    assert sys.getrefcount(generator) > holders
    move(1, 2)


@pytest.mark.parametrize("field", ["counter", "key", "buffer_pos", "has_uint32"])
def test_another_layout_is_noticed(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = list(philox_position._State._fields_)
    own = next(entry for entry in fields if entry[0] == field)
    fields[fields.index(own)] = ("gap", own[1])

    class Moved(ctypes.Structure):
        _fields_ = [*fields, own]

    monkeypatch.setattr(philox_position, "_State", Moved)
    assert not _memory_is_known.__wrapped__()


def test_the_slow_way_gives_the_noise_of_the_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def noise() -> np.ndarray:
        return NoiseSource(5).normal(9, range(3000, 3005), (2, 3))

    fast = noise()
    monkeypatch.setattr(philox_position, "_memory_is_known", lambda: False)
    np.testing.assert_array_equal(noise(), fast)
