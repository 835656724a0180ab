"""Random numbers of chains."""

from __future__ import annotations

import numpy as np

from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.noise import Stream, normal


def test_normal_numbers_are_the_noise_of_the_step() -> None:
    random = ChainRandom(3, range(2, 6), (4,))
    np.testing.assert_array_equal(random.at(7).normal(), normal(3, 7, range(2, 6), (4,)))
    np.testing.assert_array_equal(random.at(5).ahead(2).normal(), random.at(7).normal())
    out = np.empty((4, 4), np.float32)
    assert random.at(7).normal(out=out) is out
    np.testing.assert_array_equal(out, random.at(7).normal())


def test_a_chain_has_its_numbers_in_any_batch() -> None:
    everything, some = ChainRandom(3, range(3000), (2,)).at(1), ChainRandom(3, range(2500, 2510), (2,)).at(1)
    np.testing.assert_array_equal(everything.normal()[2500:2510], some.normal())
    np.testing.assert_array_equal(everything.uniform()[2500:2510], some.uniform())


def test_streams_share_no_number() -> None:
    random = ChainRandom(3, range(50), ())
    assert not np.intersect1d(random.uniform(Stream.ACCEPT), random.uniform(Stream.CORRECT)).size
    assert not np.intersect1d(random.normal(), random.normal(Stream.ACCEPT)).size


def test_uniform_numbers_are_uniform_and_finer_than_float32() -> None:
    numbers = ChainRandom(0, range(20_000), ()).uniform()
    assert numbers.dtype == np.float64 and numbers.min() >= 0 and numbers.max() < 1
    edges = np.linspace(0, 1, 11)
    counts = np.histogram(numbers, edges)[0]
    assert (abs(counts - 2000) < 4 * np.sqrt(2000 * 0.9)).all()
    assert (numbers * 2**24 % 1 != 0).mean() > 0.99


def test_fixed_numbers_get_no_noise() -> None:
    free = np.array([[1, 0]], np.float32)
    random = ChainRandom(3, range(5), (2,), free)
    np.testing.assert_array_equal(random.normal(), ChainRandom(3, range(5), (2,)).normal() * free)
