from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.histogram import histograms
from ebm_export.runtime.errors import UsageError


def test_sets_share_their_bins() -> None:
    generator = np.random.default_rng(0)
    found = histograms({"a": generator.standard_normal(500), "b": 3 + generator.standard_normal(200)}, bins=10)
    assert len(found.edges) == 11
    assert sum(found.share["a"]) == pytest.approx(1) and sum(found.share["b"]) == pytest.approx(1)
    middles = 0.5 * (np.array(found.edges[:-1]) + np.array(found.edges[1:]))
    # A bin is about 0.7 wide, so the mean of the middles is within half of that of the mean.
    assert np.dot(middles, found.share["b"]) - np.dot(middles, found.share["a"]) == pytest.approx(3, abs=0.35)


def test_a_stray_number_is_counted_and_does_not_set_the_range() -> None:
    values = np.append(np.linspace(0, 1, 999), 1e9)
    found = histograms({"a": values}, bins=5)
    assert found.edges[-1] < 2
    assert sum(found.share["a"]) == pytest.approx(1)


def test_what_is_not_finite_is_missing_from_the_shares() -> None:
    found = histograms({"a": np.array([0.0, 1.0, np.nan, np.inf])}, bins=2)
    assert sum(found.share["a"]) == pytest.approx(0.5)


def test_equal_numbers_have_a_bin() -> None:
    assert sum(histograms({"a": np.full(7, 2.5)}).share["a"]) == pytest.approx(1)


def test_no_finite_number_is_an_error() -> None:
    with pytest.raises(UsageError, match="at least one finite number"):
        histograms({"a": np.array([np.nan])})
