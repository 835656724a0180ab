from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.observers import Histogram, entropy_range


def range_of(values: np.ndarray, symmetric: bool = True) -> tuple[float, float]:
    histogram = Histogram()
    histogram.update(values.astype(np.float32))
    return entropy_range(histogram, symmetric)[0]


def test_a_far_outlier_is_cut_off() -> None:
    values = np.random.default_rng(0).standard_normal(50_000)
    assert range_of(np.append(values, 300.0))[1] < 40
    assert range_of(values)[1] > 2


def test_even_values_are_kept_whole() -> None:
    assert range_of(np.linspace(-1, 1, 100_001))[1] == pytest.approx(1, abs=0.03)


def test_two_numbers_lose_nothing_at_full_range() -> None:
    low, high = range_of(np.array([0.01, 0.02]))
    assert (low, high) == pytest.approx((-0.02, 0.02), rel=1e-6)


def test_an_asymmetric_range_is_the_part_that_was_seen() -> None:
    low, high = range_of(np.random.default_rng(1).exponential(size=20_000), symmetric=False)
    assert low == 0
    assert high > 3
