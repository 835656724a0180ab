from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.calibration.noise_floor import (
    FloorRatio,
    embedding_ratio,
    partitions,
    self_ratio,
    shift_ratio,
    split_ratio,
)

N, SUBSET = 320, 20


def by_splits(a: np.ndarray, q: np.ndarray, seed: int = 0) -> FloorRatio:
    """The ratio of differences of means, by partitions."""
    within, across = [], []
    for own, other in partitions(len(a), len(q), SUBSET, seed):
        one, two = a[own].mean(axis=1), q[other].mean(axis=1)
        within.append(np.square(one[:, None] - one))
        across.append(np.square(one[:, None] - two))
    return split_ratio(within, across)


def in_closed_form(a: np.ndarray, q: np.ndarray) -> FloorRatio:
    """The same by the embedding with k(x, y) = x y."""

    def own(x):
        return x * x, x * x.sum() - x * x

    return embedding_ratio(SUBSET, own(a), own(q), (a * q.sum(), q * a.sum()))


class TestPartitions:
    def test_sets_are_disjoint_and_repeat_with_the_seed(self) -> None:
        cuts = partitions(325, 170, SUBSET, 3)
        assert len(cuts) == 16
        for own, other in cuts:
            assert own.shape == (16, SUBSET)
            assert other.shape == (8, SUBSET)
            assert len(np.unique(own)) == 320
        assert len({index for own, _ in cuts for index in own.reshape(-1)}) == 325
        np.testing.assert_array_equal(cuts[0][0], partitions(325, 170, SUBSET, 3)[0][0])


class TestMeans:
    """Means have a known answer: ratio^2 = 1 + n d^2 / 2 for a shift of d standard deviations."""

    def test_the_closed_form_is_what_splits_average_to(self) -> None:
        rng = np.random.default_rng(0)
        a, q = rng.standard_normal(N), 0.3 + rng.standard_normal(N)
        closed = in_closed_form(a, q)
        split = np.mean([by_splits(a, q, seed).ratio for seed in range(20)])
        assert closed.ratio == pytest.approx(split, rel=0.02)
        assert closed.floor == pytest.approx(np.sqrt(2 * a.var(ddof=1) / SUBSET), rel=1e-9)

    @pytest.mark.parametrize("estimate", [by_splits, in_closed_form])
    @pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
    def test_ratio_and_interval(self, estimate, shift: float) -> None:
        """The ratio is right in the mean of squares; the interval holds the truth about 19 times in 20."""
        truth = math.sqrt(1 + SUBSET * shift**2 / 2)
        rng = np.random.default_rng(1)
        found = [estimate(rng.standard_normal(N), shift + rng.standard_normal(N)) for _ in range(100)]
        squares = np.array([one.ratio**2 for one in found])
        assert squares.mean() == pytest.approx(truth**2, abs=4 * squares.std() / 10)
        assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.88

    def test_the_chance_of_failing_that_the_plan_derives(self) -> None:
        """P(ratio > 1.25) = P(chi2_1 > 10) = 0.0016 at N = 16 n; at 1.06, P(chi2_1 > 2.98) = 0.084."""
        rng = np.random.default_rng(2)
        ratios = np.array([in_closed_form(rng.standard_normal(N), rng.standard_normal(N)).ratio for _ in range(1500)])
        assert (ratios > 1.25).mean() < 0.006  # 2.4 expected, at most 8
        assert (ratios > 1.06).mean() == pytest.approx(0.084, abs=0.025)


class TestEdges:
    @pytest.mark.parametrize("estimate", [by_splits, in_closed_form])
    def test_chains_that_all_agree(self, estimate) -> None:
        same = estimate(np.ones(N), np.ones(N))
        assert (same.ratio, same.low, same.high) == (1.0, 1.0, 1.0)
        assert estimate(np.ones(N), np.full(N, 2.0)).ratio == math.inf


class TestSelfRatio:
    def test_twice_the_distance(self) -> None:
        """u(x, y) = x y: D^2 is the squared mean of n numbers, 1/n + m^2 for normals around m."""
        rng = np.random.default_rng(0)

        def sums(x):
            return x * x, x * x.sum() - x * x

        found = [
            self_ratio(SUBSET, sums(rng.standard_normal(N)), sums(0.5 + rng.standard_normal(N))) for _ in range(50)
        ]
        truth = math.sqrt((1 / SUBSET + 0.25) / (1 / SUBSET))
        assert np.mean([one.ratio for one in found]) == pytest.approx(truth, rel=0.05)
        assert np.mean([one.low <= truth <= one.high for one in found]) > 0.85


class TestShiftRatio:
    @pytest.mark.parametrize("shift", [0.0, 1.0])
    def test_a_number_per_pair(self, shift: float) -> None:
        """t(A, Q) = the mean of Q: its standard deviation is 1 / sqrt(n), and ratio^2 = 1 + n d^2."""
        rng = np.random.default_rng(0)
        found = []
        for seed in range(40):
            a, q = rng.standard_normal(N), shift / np.sqrt(SUBSET) + rng.standard_normal(N)
            within, across = [], []
            for own, other in partitions(N, N, SUBSET, seed):
                one, two = a[own].mean(axis=1), q[other].mean(axis=1)
                within.append(np.broadcast_to(one, (len(one), len(one))))
                across.append(np.broadcast_to(two, (len(one), len(two))))
            found.append(shift_ratio(within, across))
        truth = math.sqrt(1 + shift**2)
        assert np.mean([one.ratio for one in found]) == pytest.approx(truth, rel=0.06)
        assert np.mean([one.low <= truth <= one.high for one in found]) > 0.85

    def test_no_spread(self) -> None:
        within, across = [np.ones((4, 4))] * 4, [np.ones((4, 4))] * 4
        assert shift_ratio(within, across).ratio == 1.0
        assert shift_ratio(within, [np.zeros((4, 4))] * 4).ratio == math.inf
