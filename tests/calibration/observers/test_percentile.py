from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.observers import Histogram, min_max_range, percentile_range
from ebm_export.calibration.observers.histogram import BINS


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values.astype(np.float32))
    return histogram


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("percent", [99.99, 99.0, 90.0])
def test_no_more_than_the_share_lies_outside(symmetric: bool, percent: float) -> None:
    values = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    histogram = histogram_of(values)
    ((low, high),) = percentile_range(histogram, symmetric, percent)
    allowed = (1 - percent / 100) * len(values)
    assert np.count_nonzero((values < low) | (values > high)) <= allowed + 1e-6
    # One bin less on each side and more would be outside: the range is no wider than it must be.
    width = 2 * histogram.reach / BINS
    assert np.count_nonzero((values < low + width) | (values > high - width)) > allowed


def test_sides_share_what_is_left_out() -> None:
    values = np.concatenate([np.linspace(-1, 1, 10_001), np.full(60, -7.0), np.full(20, 7.5)])
    ((low, high),) = percentile_range(histogram_of(values), False, 99.0)  # 50 may lie outside on each side
    assert low == pytest.approx(-7, abs=0.01)
    assert high == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("symmetric", [True, False])
def test_all_of_them_is_min_max(symmetric: bool) -> None:
    histogram = histogram_of(np.random.default_rng(1).standard_normal(1000))
    assert percentile_range(histogram, symmetric, 100) == min_max_range(histogram, symmetric)


def test_zeros_do_not_count() -> None:
    values = np.random.default_rng(2).exponential(size=1000)
    with_zeros = np.concatenate([values, np.zeros(100_000)])
    assert percentile_range(histogram_of(with_zeros), False, 99) == percentile_range(histogram_of(values), False, 99)
