"""Sums of squares outside float32's comfortable range."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime.row_norms import square_sums


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
