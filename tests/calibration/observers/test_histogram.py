from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.observers.histogram import BINS, Histogram


def counted(*batches: np.ndarray, channels: int = 1, axis: int = 1) -> Histogram:
    histogram = Histogram(channels, axis)
    for batch in batches:
        histogram.update(batch)
    return histogram


@pytest.fixture
def batches() -> list[np.ndarray]:
    """Sizes from 1e-5 to 1e3, both signs, some zeros."""
    rng = np.random.default_rng(0)
    found = [10.0**power * rng.standard_normal((4, 3, 5)).astype(np.float32) for power in (-5, 3, 0, -2)]
    found[2][:, :, 0] = 0
    return found


def test_every_value_is_counted_once(batches: list[np.ndarray]) -> None:
    histogram = counted(*batches)
    assert histogram.counts.sum() + histogram.zeros.sum() == sum(batch.size for batch in batches)
    assert histogram.zeros[0] == 12
    together = np.concatenate(batches)
    assert (histogram.low[0], histogram.high[0]) == (together.min(), together.max())


def test_reach_is_the_next_power_of_two() -> None:
    assert counted(np.array([0.7])).reach == 1.0
    assert counted(np.array([-1.0])).reach == 2.0  # values lie below R
    assert counted(np.array([0.1]), np.array([-100.0])).reach == 128.0
    assert counted(np.zeros(3)).reach == 1.0


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 2, 3), (2, 0, 3, 1)])
def test_order_of_batches_changes_nothing(batches: list[np.ndarray], order: tuple[int, ...]) -> None:
    one, other = counted(*batches), counted(*(batches[index] for index in order))
    assert one.reach == other.reach
    np.testing.assert_array_equal(one.counts, other.counts)


def test_tiny_negative_values_stay_negative_beside_large_ones() -> None:
    """Added to R before they are divided by a bin, they would land in the first bin above zero."""
    tiny, large = np.array([-1e-25], np.float32), np.array([1.0], np.float32)
    for batches in ((tiny, large), (large, tiny)):
        assert counted(*batches).counts[0, BINS // 2 - 1] == 1


def test_values_lie_in_their_bins() -> None:
    values = np.random.default_rng(1).uniform(-3, 3, 500).astype(np.float32)
    histogram = counted(values)
    width = 2 * histogram.reach / BINS
    edges = np.append(histogram.centers - width / 2, histogram.reach)
    np.testing.assert_array_equal(histogram.counts[0], np.histogram(values.astype(np.float64), edges)[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_are_counted_apart(axis: int) -> None:
    values = np.random.default_rng(2).standard_normal((3, 4, 5)).astype(np.float32)
    channels = values.shape[axis]
    histogram = counted(values, channels=channels, axis=axis)
    for channel in range(channels):
        alone = np.take(values, channel, axis)
        assert histogram.counts[channel].sum() == alone.size
        assert (histogram.low[channel], histogram.high[channel]) == (alone.min(), alone.max())


def test_an_empty_batch_changes_nothing() -> None:
    histogram = counted(np.empty((0, 3), np.float32))
    assert not histogram.counts.any()
    assert histogram.low[0] == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="takes finite values only"):
        counted(np.array([1.0, bad]))
