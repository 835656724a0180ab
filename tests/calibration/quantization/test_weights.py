from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.quantization.weights import Moments, channel_scales, round_nearest, round_to_inputs


def moments_of(x: np.ndarray, y: np.ndarray | None = None) -> Moments:
    moments = Moments.of_size(x.shape[1])
    moments.add(x, x if y is None else y)
    moments.settle()
    return moments


def own_error(numbers: np.ndarray, scales: np.ndarray, weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N]: mean over the rows of (q y - w x)^2, in float64."""
    q = numbers * scales[:, None].astype(np.float64)
    return np.square(y.astype(np.float64) @ q.T - x.astype(np.float64) @ weights.T.astype(np.float64)).mean(0)


def correlated(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Inputs that lie near a plane of a quarter of the dimensions."""
    plane = rng.standard_normal((size // 4, size))
    return (rng.standard_normal((rows, size // 4)) @ plane + 0.1 * rng.standard_normal((rows, size))).astype(np.float32)


class TestChannelScales:
    def test_no_worse_than_the_largest_weight(self) -> None:
        weights = np.random.default_rng(0).standard_normal((20, 2000)).astype(np.float32)
        scales, whole = channel_scales(weights), np.abs(weights).max(1) / 127

        def error(with_scales: np.ndarray) -> np.ndarray:
            return np.square(round_nearest(weights, with_scales) * with_scales[:, None] - weights).sum(1)

        assert (error(scales) <= error(whole) * (1 + 1e-5)).all()
        assert (error(scales) < error(whole)).sum() > 10

    def test_each_channel_has_its_own(self) -> None:
        weights = np.random.default_rng(1).standard_normal((1, 30)) * np.array([[1.0], [1e-3], [1e3]])
        scales = channel_scales(weights)
        assert scales / scales[0] == pytest.approx([1, 1e-3, 1e3], rel=1e-5)
        assert scales.dtype == np.float32

    def test_a_channel_of_zeros(self) -> None:
        weights = np.zeros((2, 5), np.float32)
        assert (channel_scales(weights) > 0).all()
        assert not round_nearest(weights, channel_scales(weights)).any()

    def test_decayed_weights_have_a_scale_that_is_no_denormal(self) -> None:
        scales = channel_scales(np.full((1, 4), 1e-42, np.float32))
        assert scales[0] >= np.finfo(np.float32).tiny
        assert not round_nearest(np.full((1, 4), 1e-42), scales).any()


@pytest.mark.parametrize("limit", [64, 127])
def test_numbers_stay_within_the_limit_and_reach_it(limit: int) -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.standard_normal((8, 40)).astype(np.float32), correlated(rng, 400, 40)
    scales = channel_scales(weights, limit)
    for numbers in (round_nearest(weights, scales, limit), round_to_inputs(weights, scales, moments_of(x), limit)):
        assert np.abs(numbers.astype(int)).max() == limit
    assert (
        own_error(numbers, scales, weights, x, x).mean() < 0.02 * own_error(0 * numbers, scales, weights, x, x).mean()
    )


def test_round_nearest_stays_on_the_symmetric_grid() -> None:
    numbers = round_nearest(np.array([[-9.0, -0.26, 0.0, 0.24, 0.26, 9.0]]), np.array([0.05]))
    assert numbers.tolist() == [[-127, -5, 0, 5, 5, 127]]
    assert numbers.dtype == np.int8


class TestRoundToInputs:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("rows", [3, 200])
    def test_never_worse_than_nearest(self, seed: int, rows: int) -> None:
        """Inputs that are few, correlated, and coarse on their grid; weights with an outlier in each row."""
        rng = np.random.default_rng(seed)
        x = correlated(rng, rows, 16) if seed % 2 else rng.standard_normal((rows, 16)).astype(np.float32)
        y = (np.clip(np.rint(x / 0.4), -4, 4) * 0.4).astype(np.float32)
        weights = rng.standard_t(2, (40, 16)).astype(np.float32)
        scales = 6 * channel_scales(weights)
        fitted = own_error(round_to_inputs(weights, scales, moments_of(x, y)), scales, weights, x, y)
        nearest = own_error(round_nearest(weights, scales), scales, weights, x, y)
        assert (fitted <= nearest * (1 + 1e-3) + 1e-4 * np.square(x @ weights.T).mean(0)).all()  # float32 moments

    @pytest.mark.parametrize("size", [16, 300])  # less and more than a block of columns
    def test_better_on_correlated_inputs(self, size: int) -> None:
        rng = np.random.default_rng(0)
        x = correlated(rng, 1000, size)
        weights = rng.standard_normal((32, size)).astype(np.float32)
        scales = 8 * channel_scales(weights)
        fitted = own_error(round_to_inputs(weights, scales, moments_of(x)), scales, weights, x, x)
        nearest = own_error(round_nearest(weights, scales), scales, weights, x, x)
        assert fitted.mean() < 0.5 * nearest.mean()

    def test_takes_back_what_clipping_does(self) -> None:
        """Inputs on a grid of half their length: twice the weights bring the output back."""
        x = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
        weights = np.random.default_rng(1).uniform(-0.4, 0.4, (4, 8)).astype(np.float32)
        scales = np.full(4, 1 / 127, np.float32)
        numbers = round_to_inputs(weights, scales, moments_of(x, 0.5 * x))
        np.testing.assert_allclose(numbers * scales[:, None], 2 * weights, rtol=0.03, atol=0.01)

    def test_dead_inputs(self) -> None:
        weights = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
        scales = channel_scales(weights)
        dead = np.zeros((10, 6), np.float32)
        np.testing.assert_array_equal(
            round_to_inputs(weights, scales, moments_of(dead)), round_nearest(weights, scales)
        )
        dead[:, :3] = np.random.default_rng(1).standard_normal((10, 3))
        numbers = round_to_inputs(weights, scales, moments_of(dead))
        assert np.abs(numbers * scales[:, None] - weights).max() < 2 * scales.max()

    def test_rows_of_zeros_stay_zero(self) -> None:
        weights = np.zeros((2, 6), np.float32)
        x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
        assert not round_to_inputs(weights, channel_scales(weights), moments_of(x)).any()


def test_moments_do_not_depend_on_how_rows_come() -> None:
    x = np.random.default_rng(0).standard_normal((2500, 4)).astype(np.float32)
    y = np.rint(x)
    whole, parts = moments_of(x, y), Moments.of_size(4)
    for first in range(0, 2500, 100):
        parts.add(x[first : first + 100], y[first : first + 100])
    parts.settle()
    np.testing.assert_allclose(parts.rounded, whole.rounded, rtol=1e-5, atol=0.01)
    np.testing.assert_allclose(parts.crossed, x.T.astype(np.float64) @ y, rtol=1e-4, atol=0.1)
