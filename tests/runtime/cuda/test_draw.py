"""Noise drawn by the kernel against noise drawn by numpy: the same numbers."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.noise import NoiseSource, Stream
from ebm_export.runtime.ziggurat import ziggurat_tables

from .emulator import FIRST, LAST, SHUFFLED, Emulator, Memory

TAIL = 3.6541528853610088


def drawn(
    emulator: Emulator, seed: int, step: int, chains: range, size: int, attempt: int = 0, sigma: float = 1.0
) -> np.ndarray:
    config = SamplerConfig(steps=step + 1)
    memory = Memory(config, np.zeros((len(chains), size), np.float32), sigma=np.full(step + 1, sigma, np.float32))
    memory.loop.seed, memory.loop.stream = NoiseSource(seed, Stream.STEPS, attempt).key
    memory.loop.first_chain = chains.start
    memory.loop.step = step
    block = memory.loop.block_chains
    emulator.launch("draw", (chains.stop - 1) // block - chains.start // block + 1, memory.address, 0)
    return memory["noise"]


class TestPhilox:
    """The vectors are those that come with Random123, the authors' own implementation (kat_vectors, philox4x64 10)."""

    @pytest.mark.parametrize(
        ("counter", "key", "expected"),
        [
            (
                "0000000000000000 0000000000000000 0000000000000000 0000000000000000",
                "0000000000000000 0000000000000000",
                "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
            ),
            (
                "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff",
                "ffffffffffffffff ffffffffffffffff",
                "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
            ),
            (
                "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
                "452821e638d01377 be5466cf34e90c6c",
                "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
            ),
        ],
    )
    def test_known_answers(self, emulator: Emulator, counter: str, key: str, expected: str) -> None:
        words = (ctypes.c_uint64 * 4)(*(int(word, 16) for word in counter.split()))
        keys = [ctypes.c_uint64(int(word, 16)) for word in key.split()]
        emulator.library.philox_words(*keys, words)
        assert list(words) == [int(word, 16) for word in expected.split()]


def test_tables_are_those_inside_numpy(emulator: Emulator) -> None:
    tables = ziggurat_tables()
    assert tables.nbytes == emulator.library.size_of_tables()
    libraries = [path.read_bytes() for path in Path(np.random.__file__).parent.glob("_generator*")]
    for table in np.split(tables, 3):
        assert any(table.tobytes() in library for library in libraries)


class TestDraw:
    # Shapes that fill a block of chains in part, exactly, and over several rounds of the kernel; chains from the middle.
    @pytest.mark.parametrize(
        ("seed", "step", "chains", "size", "attempt"),
        [
            (0, 0, range(0, 5), 3, 0),
            (1, 7, range(0, 4096), 2, 0),  # two whole blocks
            (2**64 - 1, 3, range(1000, 3500), 3, 0),  # from the middle of one block to the middle of a later one
            (3, 11, range(1, 3), 784, 2),
            (4, 0, range(2, 4), 12288, 0),  # a block for each chain, six rounds
            (5, 2, range(2**33, 2**33 + 2), 5, 0),
        ],
    )
    @pytest.mark.parametrize("order", [FIRST, LAST, SHUFFLED])
    def test_numbers_are_numpys(
        self, emulator: Emulator, seed: int, step: int, chains: range, size: int, attempt: int, order: int
    ) -> None:
        emulator.order = order
        numbers = drawn(emulator, seed, step, chains, size, attempt)
        expected = NoiseSource(seed, Stream.STEPS, attempt).normal(step, chains, (size,))
        inside = np.abs(expected) < TAIL
        np.testing.assert_array_equal(numbers[inside], expected[inside])
        # numpy's logarithm of float32 may be off by a unit in the last place, the kernel's is rounded from double. A
        # number beyond the tail's start is at least 3.65, where a unit of the excess is at most one of the sum.
        np.testing.assert_array_max_ulp(numbers[~inside], expected[~inside], maxulp=1)

    def test_tails_are_reached(self, emulator: Emulator) -> None:
        # One normal in 3900 lies there: of 40,000 the chance of none is e^-10. Their words are followed by others' use.
        numbers = drawn(emulator, 9, 0, range(0, 4), 10_000)
        expected = NoiseSource(9).normal(0, range(0, 4), (10_000,))
        assert np.count_nonzero(np.abs(numbers) > TAIL) == np.count_nonzero(np.abs(expected) > TAIL) > 2

    def test_moments_and_distribution(self, emulator: Emulator) -> None:
        numbers = np.sort(drawn(emulator, 10, 1, range(0, 10), 10_000).ravel().astype(np.float64))
        count = len(numbers)
        # Four standard errors: sqrt(1/n), sqrt(2/n), sqrt(15/n), sqrt(96/n) for the first four moments.
        for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((numbers**power).mean() - moment) < 4 * math.sqrt(spread / count)
        below = np.array([0.5 * math.erfc(-number / math.sqrt(2)) for number in numbers])
        steps = np.arange(count + 1) / count
        distance = max((steps[1:] - below).max(), (below - steps[:-1]).max())
        assert distance < 1.95 / math.sqrt(count)  # Kolmogorov-Smirnov at 0.1 %

    def test_no_noise_draws_nothing(self, emulator: Emulator) -> None:
        assert np.isnan(drawn(emulator, 0, 4, range(0, 2), 8, sigma=0.0)).all()

    def test_nothing_is_drawn_after_the_last_step(self, emulator: Emulator) -> None:
        memory = Memory(SamplerConfig(steps=3), np.zeros((2, 4), np.float32))
        emulator.launch("draw", 1, memory.address, 3)
        assert np.isnan(memory["noise"]).all()
        emulator.launch("draw", 1, memory.address, 2)
        assert np.isfinite(memory["noise"]).all()
