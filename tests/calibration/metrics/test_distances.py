from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.distances import centred, median_distance, squared_distances


def test_distances_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    np.testing.assert_allclose(squared_distances(a, b), np.square(a[:, None] - b).sum(axis=2), rtol=1e-12)
    assert (squared_distances(a, a).diagonal() >= 0.0).all()


def test_centring_keeps_the_digits_of_close_rows_far_from_the_origin() -> None:
    rng = np.random.default_rng(0)
    rows = 1e4 + rng.standard_normal((10, 50))
    (moved,) = centred(rows)
    assert moved.dtype == np.float32
    truth = np.square(rows[:, None] - rows).sum(axis=2)
    np.testing.assert_allclose(squared_distances(moved, moved), truth, rtol=1e-5, atol=1e-3)
    assert centred(rows[:, :3])[0].dtype == np.float64


def test_median_distance() -> None:
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)
    assert median_distance(np.zeros((5, 2))) == 1.0
    mostly_equal = np.zeros((10, 1))
    mostly_equal[0] = 3.0
    assert median_distance(mostly_equal) == pytest.approx(np.sqrt(9 * 9 / 45))
    many = np.random.default_rng(0).standard_normal((5000, 2))
    # The distance of two standard normals in the plane is Rayleigh with scale sqrt(2): median sqrt(4 ln 2).
    assert median_distance(many) == pytest.approx(np.sqrt(4 * np.log(2)), rel=0.05)
