"""Projection onto bounds and reflection at them."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime.samplers import boundary
from ebm_export.runtime.samplers.boundary import new_scratch, project, reflect


def test_project() -> None:
    x = np.array([[-3, 0.5, 9]], np.float32)
    project(x, None)
    np.testing.assert_array_equal(x, [[-3, 0.5, 9]])
    project(x, (-1, 2))
    np.testing.assert_array_equal(x, [[-1, 0.5, 2]])


def test_reflect_folds_and_says_which_way_a_number_flies() -> None:
    x = np.array([[0.5, 2.5, 3.5, -1.25, 5.25, -4.5]], np.float32)  # walls at -1 and 2
    turned = reflect(x, (-1, 2))
    np.testing.assert_allclose(x, [[0.5, 1.5, 0.5, -0.75, -0.75, 1.5]])
    assert turned is not None
    assert turned.tolist() == [[False, True, True, True, False, False]]


def test_reflect_is_a_flight_between_walls() -> None:
    # In small steps, turning round at each wall, a ball gets where the fold says.
    rng = np.random.default_rng(0)
    start, speed = rng.uniform(-1, 2, 50), rng.normal(0, 9, 50)
    position, direction = start.copy(), speed.copy()
    for _ in range(10_000):
        position += direction / 10_000
        direction[(position > 2) | (position < -1)] *= -1
        position = np.where(position > 2, 4 - position, np.where(position < -1, -2 - position, position))
    folded = (start + speed).astype(np.float32)
    turned = reflect(folded, (-1, 2))
    assert turned is not None
    np.testing.assert_allclose(folded, position, atol=1e-3)
    np.testing.assert_array_equal(turned, np.sign(direction) != np.sign(speed))


def test_inside_nothing_happens() -> None:
    x = np.array([[-1, 0.1, 2]], np.float32)
    assert reflect(x, (-1, 2)) is None and reflect(x, None) is None
    np.testing.assert_array_equal(x, np.array([[-1, 0.1, 2]], np.float32))


def test_what_is_not_finite_stays_so() -> None:
    x = np.array([[np.inf, np.nan, -np.inf]], np.float32)
    with np.errstate(invalid="ignore"):
        reflect(x, (-1, 2))
    assert np.isnan(x).all()


@pytest.mark.parametrize("outside", [1, 10, 200, 400])
def test_few_numbers_outside_are_folded_as_many_are(outside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).random((40, 10), dtype=np.float32)
    places = np.random.default_rng(1).permutation(400)[:outside]
    x.reshape(-1)[places] += np.linspace(-3, 3, outside, dtype=np.float32)
    found = []
    for few in (0.0, 2.0):  # all at once, and alone
        monkeypatch.setattr(boundary, "_FEW", few)
        folded = x.copy()
        scratch = new_scratch(folded)
        scratch.turned[...] = True  # of a call before
        turned = reflect(folded, (0.0, 1.0), scratch)
        assert turned is scratch.turned
        found.append((folded, turned.copy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[0][0].min() >= 0 and found[0][0].max() <= 1
