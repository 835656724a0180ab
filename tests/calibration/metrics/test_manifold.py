from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ebm_export.calibration.metrics.manifold import manifold_p_values, manifold_quality
from ebm_export.calibration.metrics.permutation import permutation_p_value, shuffled_labels
from ebm_export.runtime.errors import UsageError


class TestManifoldQuality:
    def test_is_the_definition(self) -> None:
        rng = np.random.default_rng(0)
        a, b, k = rng.standard_normal((40, 3)), 0.5 + rng.standard_normal((30, 3)), 4
        reach_a, reach_b = np.sort(cdist(a, a))[:, k], np.sort(cdist(b, b))[:, k]
        apart = cdist(a, b)
        found = manifold_quality(a, b, k=k)
        assert found.precision == pytest.approx((apart <= reach_a[:, None]).any(axis=0).mean())
        assert found.recall == pytest.approx((apart <= reach_b).any(axis=1).mean())
        assert found.density == pytest.approx((apart <= reach_a[:, None]).sum() / (k * 30))
        assert found.coverage == pytest.approx((apart <= reach_a[:, None]).any(axis=1).mean())

    def test_one_distribution(self) -> None:
        rng = np.random.default_rng(0)
        found = manifold_quality(rng.standard_normal((1500, 2)), rng.standard_normal((1500, 2)))
        assert found.coverage == pytest.approx(1 - 2**-5, abs=0.02)
        assert found.density == pytest.approx(1.0, abs=0.08)
        assert min(found.precision, found.recall) > 0.97

    def test_far_apart_and_equal(self) -> None:
        rng = np.random.default_rng(0)
        a = rng.standard_normal((50, 2))
        found = manifold_quality(a, a + 100.0)
        assert (found.precision, found.recall, found.density, found.coverage) == (0.0, 0.0, 0.0, 0.0)
        same = manifold_quality(np.ones((10, 2)), np.ones((12, 2)))
        assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)

    def test_half_of_the_modes(self) -> None:
        rng = np.random.default_rng(0)
        a = np.concatenate([rng.standard_normal((100, 2)), 50 + rng.standard_normal((100, 2))])
        found = manifold_quality(a, rng.standard_normal((200, 2)))
        assert found.coverage == pytest.approx(0.5, abs=0.03)
        assert found.precision > 0.9

    def test_refusals(self) -> None:
        with pytest.raises(UsageError, match="at least 6 samples, got 5"):
            manifold_quality(np.ones((5, 2)), np.ones((9, 2)))
        with pytest.raises(UsageError, match="k: expected at least 1"):
            manifold_quality(np.ones((5, 2)), np.ones((9, 2)), k=0)


def drawn(kind: str, seed: int, width: float = 1.0, count: int = 100) -> np.ndarray:
    """Samples whose distances have many ties, and the last ones that have none."""
    normal = width * np.random.default_rng(seed).standard_normal((count, 2))
    return {
        "lattice": np.round(normal),
        "clipped": np.clip(2 * normal, -1, 1),
        "constant": np.zeros_like(normal),
        "continuous": normal,
    }[kind]


class TestPValues:
    def test_one_distribution_and_two(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((200, 3)), rng.standard_normal((200, 3))
        same = manifold_p_values(a, b)
        assert min(same.density, same.coverage) > 0.05
        assert manifold_p_values(a, 0.3 * b).density <= 2 / 200
        assert manifold_p_values(a, b + 1.5).coverage <= 2 / 200

    @pytest.mark.parametrize("kind", ["lattice", "clipped", "constant", "continuous"])
    def test_ties_do_not_know_the_labels(self, kind: str) -> None:
        """Of 200 true null hypotheses, 5 % are below 0.05: 10, and 20 or more by a chance of 0.3 %; the seeds are fixed."""
        found = [
            manifold_p_values(drawn(kind, seed), drawn(kind, 1000 + seed), permutations=39, seed=seed)
            for seed in range(200)
        ]
        for p_values in ([each.density for each in found], [each.coverage for each in found]):
            assert np.mean(np.array(p_values) <= 0.05) < 0.1

    def test_ties_leave_a_difference_to_be_found(self) -> None:
        found = [
            manifold_p_values(drawn("lattice", seed, count=200), drawn("lattice", 1000 + seed, 0.6, 200), seed=seed)
            for seed in range(20)
        ]
        assert np.mean([p_values.coverage <= 0.05 for p_values in found]) > 0.7

    def test_distances_without_ties_are_in_their_own_order(self) -> None:
        a, b, k = drawn("continuous", 0), drawn("continuous", 1, 0.8, 80), 5
        rows = np.concatenate([a, b])
        near = np.argsort(cdist(rows, rows), axis=1)[:, 1 : 4 * k + 1]
        covered, dense = [], []
        for label in shuffled_labels(100, 80, 199, seed=3):
            own = label[near[label]]
            covered.append(1 - own[:, :k].all(axis=1).mean())
            dense.append((~own & (own.cumsum(axis=1) < k)).sum())
        found = manifold_p_values(a, b, k=k, seed=3)
        assert found.coverage == permutation_p_value(np.abs(np.array(covered) - np.mean(covered)))
        assert found.density == permutation_p_value(np.abs(np.array(dense) - np.mean(dense)))
