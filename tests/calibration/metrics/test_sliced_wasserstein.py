from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.sliced_wasserstein import slice_directions, sliced_p_value, sliced_wasserstein
from ebm_export.runtime.errors import UsageError


def test_directions_are_unit_vectors_of_the_seed() -> None:
    found = slice_directions(5, 8, 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1.0)
    np.testing.assert_array_equal(found, slice_directions(5, 8, 3))
    assert not np.array_equal(found, slice_directions(5, 8, 4))
    assert slice_directions(1, 8, 0).tolist() == [[1.0]]


class TestSlicedWasserstein:
    @pytest.mark.parametrize("order", [1, 2])
    def test_one_axis_is_plain_wasserstein(self, order: int) -> None:
        x = np.random.default_rng(0).standard_normal((40, 1))
        assert sliced_wasserstein(x, x + 0.7, order=order) == pytest.approx(0.7)

    def test_a_shift_is_seen_along_each_direction(self) -> None:
        x = np.random.default_rng(0).standard_normal((40, 2, 2))
        shift = np.array([[3.0, 0.0], [0.0, 4.0]])
        axes = slice_directions(4, 64, 0)
        expected = np.sqrt(np.mean(np.square(shift.reshape(-1) @ axes)))
        assert sliced_wasserstein(x, x + shift) == pytest.approx(expected)
        # |d| / sqrt(D) in the mean over directions.
        assert sliced_wasserstein(x, x + shift, directions=4000) == pytest.approx(2.5, rel=0.05)

    def test_constants_and_unequal_counts(self) -> None:
        assert sliced_wasserstein(np.ones((3, 2)), np.ones((5, 2))) == 0.0
        x = np.random.default_rng(0).standard_normal((50, 2))
        assert sliced_wasserstein(x, np.repeat(x, 3, axis=0)) == pytest.approx(0.0, abs=1e-12)

    def test_refusals(self) -> None:
        with pytest.raises(UsageError, match="candidate: expected 2 numbers per sample"):
            sliced_wasserstein(np.ones((3, 2)), np.ones((3, 3)))
        with pytest.raises(UsageError, match="order: expected 1 or 2, got 3"):
            sliced_wasserstein(np.ones((3, 2)), np.ones((3, 2)), order=3)
        with pytest.raises(UsageError, match="finite"):
            sliced_wasserstein(np.ones((3, 2)), np.full((3, 2), np.nan))


def test_p_value() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((100, 4)), rng.standard_normal((120, 4))
    assert sliced_p_value(a, b) > 0.05
    assert sliced_p_value(a, 2.0 * b) == pytest.approx(1 / 200)
    assert sliced_p_value(np.ones((5, 2)), np.ones((5, 2))) == 1.0
