"""Noise of many steps at once has the bits of noise that is drawn step by step."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import chain_random, noise_in_bulk
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.noise import NoiseSource
from ebm_export.runtime.noise_in_bulk import NoiseInBulk, suits

STEPS = 1700  # one whole draw, and a rest of more than the least
CASES = [
    (range(1), (2,)),
    (range(4), (2,)),
    (range(2), (2, 2)),
    (range(4096, 4099), (1,)),
    (range(512, 513), (8,)),
    (range(1), ()),
]


def one_by_one(seed: int, chains: range, shape: tuple[int, ...]) -> np.ndarray:
    source = NoiseSource(seed)
    return np.stack([source.normal(step, chains, shape) for step in range(STEPS)])


@pytest.mark.parametrize(("chains", "shape"), CASES)
@pytest.mark.parametrize("stride", [1, 32])
def test_the_same_bits(chains: range, shape: tuple[int, ...], stride: int) -> None:
    assert suits(chains, shape, STEPS)
    wanted = one_by_one(9, chains, shape)
    bulk = NoiseInBulk(NoiseSource(9), chains, shape, STEPS, stride)
    for step in range(0, STEPS - stride, stride):
        found = bulk.take(step)
        np.testing.assert_array_equal(found, wanted[step] if stride == 1 else wanted[step : step + stride])


def test_words_that_decide_nothing_came_up() -> None:
    """In 1.2 % of cases a number takes further words; a test that met none of these would show little."""
    drawn = NoiseInBulk(NoiseSource(9), range(4), (2,), STEPS).take(0)
    again = []
    real = NoiseSource.normal

    def counted(self: NoiseSource, step: int, *rest: object) -> object:
        again.append(step)
        return real(self, step, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseSource, "normal", counted)
        np.testing.assert_array_equal(NoiseInBulk(NoiseSource(9), range(4), (2,), STEPS).take(0), drawn)
    assert 20 < len(set(again)) < 300


def test_any_step_may_be_asked_for() -> None:
    wanted = one_by_one(1, range(1), (2,))
    bulk = NoiseInBulk(NoiseSource(1), range(1), (2,), STEPS, 4)
    for step in (1000, 996, 0, 1022, 1698 - 4, 1696, 3):
        np.testing.assert_array_equal(bulk.take(step), wanted[step : step + 4])


def test_blocks_of_more_steps_than_are_drawn_at_once() -> None:
    bulk = NoiseInBulk(NoiseSource(9), range(1), (2,), STEPS, 1500)
    np.testing.assert_array_equal(bulk.take(0), one_by_one(9, range(1), (2,))[:1500])


@pytest.mark.parametrize(
    ("chains", "shape", "steps"),
    [
        (range(5), (2,), STEPS),  # ten numbers at each step
        (range(1, 2), (2,), STEPS),  # in the middle of a block
        (range(1), (2,), 100),  # over before it pays
    ],
)
def test_who_is_left_to_the_generator(chains: range, shape: tuple[int, ...], steps: int) -> None:
    assert not suits(chains, shape, steps)


def test_a_numpy_that_draws_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_in_bulk, "philox_words", lambda key, block, steps: np.zeros((len(steps), 8), np.uint32))
    noise_in_bulk._draws_as_numpy.cache_clear()
    try:
        assert not suits(range(1), (2,), STEPS)
    finally:
        noise_in_bulk._draws_as_numpy.cache_clear()


def test_a_numpy_that_draws_as_expected() -> None:
    assert noise_in_bulk._draws_as_numpy()


@pytest.mark.parametrize("stride", [1, 8])
def test_chains_get_it(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for bulk in (True, False):
        if not bulk:
            monkeypatch.setattr(chain_random, "suits", lambda *arguments: False)
        random = ChainRandom(3, range(1), (2,))
        random.draw_ahead(STEPS, stride)
        out = np.empty((stride, 1, 2), np.float32)
        steps = range(0, STEPS - stride, stride)
        drawn.append(
            [(random.at(step).normal() if stride == 1 else random.at(step).normals(out)).copy() for step in steps]
        )
        assert isinstance(random._ahead, NoiseInBulk) == bulk
        random.close()
    np.testing.assert_array_equal(*drawn)
