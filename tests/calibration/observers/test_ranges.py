"""What holds for every observer."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.observers import OBSERVERS, Histogram

VALUES = {
    "normal": np.random.default_rng(0).standard_normal(4000),
    "relu": np.maximum(np.random.default_rng(1).standard_normal(4000), 0),
    "negative": -np.random.default_rng(2).exponential(size=4000),
    "few": np.array([0.5, -0.25, 3.0]),
    "one number": np.full(100, 0.7),
    "outlier": np.append(np.random.default_rng(3).standard_normal(4000), 1e4),
}


def histogram_of(values: np.ndarray, channels: int = 1) -> Histogram:
    histogram = Histogram(channels, 0)
    histogram.update(values.astype(np.float32))
    return histogram


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("observer", OBSERVERS.values(), ids=OBSERVERS)
class TestEveryRange:
    def test_lies_within_what_was_seen_and_holds_zero(self, observer, values: np.ndarray, symmetric: bool) -> None:
        ((low, high),) = observer(histogram_of(values), symmetric)
        assert low <= 0 <= high
        assert high > low
        if symmetric:
            assert low == -high
            assert high <= np.abs(values.astype(np.float32)).max()
        else:
            assert low >= min(0, values.astype(np.float32).min())
            assert high <= max(0, values.astype(np.float32).max())

    def test_grows_with_the_values(self, observer, values: np.ndarray, symmetric: bool) -> None:
        """By a power of two, which changes no bin."""
        ((low, high),) = observer(histogram_of(values), symmetric)
        assert observer(histogram_of(8 * values), symmetric) == [(8 * low, 8 * high)]

    def test_knows_nothing_of_the_other_channels(self, observer, values: np.ndarray, symmetric: bool) -> None:
        alone = observer(histogram_of(values), symmetric)
        dead = np.zeros_like(values)
        found = observer(histogram_of(np.stack([values, dead, values / 2]), 3), symmetric)
        assert found[0] == alone[0]
        assert found[1] == (0, 0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("observer", OBSERVERS.values(), ids=OBSERVERS)
def test_nothing_seen_is_an_empty_range(observer, symmetric: bool) -> None:
    assert observer(Histogram(), symmetric) == [(0, 0)]
