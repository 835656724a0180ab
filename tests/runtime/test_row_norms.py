"""Sums of squares outside float32's comfortable range."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime.row_norms import moderate_square_sums, square_sums


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_agrees_with_float64_at_every_size(size: float) -> None:
    batch = (size * np.random.default_rng(0).standard_normal((3, 4, 5))).astype(np.float32)
    np.testing.assert_allclose(square_sums(batch), (batch.astype(np.float64) ** 2).sum(axis=(1, 2)), rtol=1e-6)


def test_is_not_finite_only_where_the_sample_is_not() -> None:
    batch = np.ones((4, 3), np.float32)
    batch[1, 2], batch[2, 0] = np.nan, -np.inf
    np.testing.assert_array_equal(np.isfinite(square_sums(batch)), [True, False, False, True])


def test_scalar_samples() -> None:
    np.testing.assert_array_equal(square_sums(np.array([2, 3], np.float32)), [4, 9])


def test_a_sample_does_not_depend_on_those_beside_it() -> None:
    batch = np.random.default_rng(1).standard_normal((4, 50)).astype(np.float32)
    expected = square_sums(batch)[1:]
    for other in (0.0, np.nan, 1e30):
        batch[0] = other
        np.testing.assert_array_equal(square_sums(batch)[1:], expected)


def test_moderate_ones_alone() -> None:
    batch = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(moderate_square_sums(batch), square_sums(batch))
    for other in (0.0, np.nan, np.inf, 1e16, 1e-16):
        batch[1] = other
        assert moderate_square_sums(batch) is None
