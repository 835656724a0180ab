"""Counter-based noise: a chain's numbers depend on seed, step and chain alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.runtime import UsageError
from ebm_export.runtime.noise import BLOCK_NUMBERS, NoiseSource, Stream, normal, uniform

SHAPES = [(), (2,), (3, 5), (BLOCK_NUMBERS // 2 + 1,), (BLOCK_NUMBERS * 2,)]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_part_of_the_chains_is_that_part_of_all(shape: tuple[int, ...]) -> None:
    block = max(1, BLOCK_NUMBERS // max(1, math.prod(shape)))
    count = min(2 * block + 5, 9000)
    everything = normal(3, 7, range(count), shape)
    edges = sorted({0, 1, block - 1, block, block + 1, count - 1, count} & set(range(count + 1)))
    for start in edges:
        for stop in (edge for edge in edges if edge >= start):
            np.testing.assert_array_equal(normal(3, 7, range(start, stop), shape), everything[start:stop])


@pytest.mark.parametrize("shape", SHAPES)
def test_some_of_the_chains_have_the_numbers_that_they_have_among_all(shape: tuple[int, ...]) -> None:
    block = max(1, BLOCK_NUMBERS // max(1, math.prod(shape)))
    everything = normal(3, 7, range(2 * block + 3), shape)
    for some in ((1,), (0, block, 2 * block + 2), tuple(sorted({0, block - 1, block, block + 1})), (block, 2 * block)):
        np.testing.assert_array_equal(NoiseSource(3).normal(7, some, shape), everything[list(some)])
        out = np.empty((2, len(some), *shape), np.float32)
        NoiseSource(3).normals(6, some, shape, out)
        np.testing.assert_array_equal(out[1], everything[list(some)])
        np.testing.assert_array_equal(
            NoiseSource(3).uniform(7, some, shape), uniform(3, 7, range(2 * block + 3), shape)[list(some)]
        )


def test_order_of_calls_does_not_matter() -> None:
    source = NoiseSource(5)
    forward = [source.normal(step, range(3), (4,)) for step in range(4)]
    source.uniform(9, range(2), (1,))
    backward = [source.normal(step, range(3), (4,)) for step in reversed(range(4))]
    np.testing.assert_array_equal(forward, backward[::-1])


def test_seed_step_chain_and_stream_each_change_the_numbers() -> None:
    base = normal(0, 0, range(2), (8,))
    others = [
        normal(1, 0, range(2), (8,)),
        normal(0, 1, range(2), (8,)),
        normal(0, 0, range(2, 4), (8,)),
        normal(0, 0, range(2), (8,), stream=Stream.START),
        normal(0, 0, range(2), (8,), stream=Stream.DATA),
    ]
    numbers = np.concatenate([base, *others]).reshape(-1)
    assert len(np.unique(numbers)) == len(numbers)


def test_writes_into_the_given_buffer() -> None:
    buffer = np.zeros((4, 3), np.float32)
    result = normal(0, 2, range(4), (3,), out=buffer)
    assert result is buffer
    np.testing.assert_array_equal(buffer, normal(0, 2, range(4), (3,)))


def test_moments() -> None:
    n = 200_000
    numbers = normal(0, 0, range(n), ()).astype(np.float64)
    # Standard errors of the first four moments of a standard normal: sqrt(1, 2, 15, 96) / sqrt(n).
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((numbers**power).mean() - expected) < 4 * math.sqrt(variance / n)
    across_steps = np.corrcoef(numbers, normal(0, 1, range(n), ()))[0, 1]
    assert abs(across_steps) < 4 / math.sqrt(n)
    flat = uniform(0, 0, range(n), ()).astype(np.float64)
    assert flat.min() >= 0 and flat.max() < 1
    assert abs(flat.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)


def test_numbers_stay_what_they_were() -> None:
    # Samples of published seeds would change if this did.
    pinned = [-0.04163210093975067, -0.0037252879701554775, -0.9942996501922607]
    np.testing.assert_allclose(normal(1, 2, range(5, 6), (3,))[0], pinned, rtol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True])
def test_refuses_seeds(seed: int) -> None:
    with pytest.raises(UsageError, match="seed: expected a whole number from 0 to 2\\*\\*64 - 1, got"):
        NoiseSource(seed)
