from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ebm_export.calibration.metrics.manifold import manifold_p_values, manifold_quality
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


class TestPValues:
    def test_one_distribution_and_two(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((200, 3)), rng.standard_normal((200, 3))
        same = manifold_p_values(a, b)
        assert min(same.density, same.coverage) > 0.05
        assert manifold_p_values(a, 0.3 * b).density <= 2 / 200
        assert manifold_p_values(a, b + 1.5).coverage <= 2 / 200
