from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.mmd import mmd
from ebm_export.runtime.errors import UsageError


def plain(a: np.ndarray, b: np.ndarray, width: float) -> tuple[float, float]:
    """Both estimates from the definition."""

    def kernel(x, y):
        return np.exp(-np.square(x[:, None] - y).sum(axis=2) / (2 * width**2))

    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    n, m = len(a), len(b)
    unbiased = (aa.sum() - n) / (n * (n - 1)) + (bb.sum() - m) / (m * (m - 1)) - 2 * ab.mean()
    return unbiased, aa.mean() + bb.mean() - 2 * ab.mean()


class TestMmd:
    @pytest.mark.parametrize("width", [3, 40])
    def test_estimates_are_those_of_the_definition(self, width: int) -> None:
        rng = np.random.default_rng(0)
        a, b = 5.0 + rng.standard_normal((30, width)), 5.3 + rng.standard_normal((40, width))
        found = mmd(a, b, bandwidth=2.0)
        unbiased, biased = plain(a, b, 2.0)
        assert found.unbiased == pytest.approx(unbiased, abs=1e-6)  # float32 kernels
        assert found.biased == pytest.approx(biased, abs=1e-6)

    def test_gaussians_a_shift_apart(self) -> None:
        """E k = (h^2 / (h^2 + 2))^(D/2) exp(-|d|^2 / (2 (h^2 + 2))) for unit Gaussians d apart."""
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((3000, 2)), np.array([1.0, 0.0]) + rng.standard_normal((3000, 2))
        truth = 2.0 * (1.0 / 3.0) * (1.0 - np.exp(-1.0 / 6.0))
        assert mmd(a, b, bandwidth=1.0, permutations=9).unbiased == pytest.approx(truth, abs=0.01)

    def test_unbiased_is_0_in_the_mean_and_p_is_uniform(self) -> None:
        rng = np.random.default_rng(0)
        found = [mmd(rng.standard_normal((20, 2)), rng.standard_normal((25, 2)), seed=seed) for seed in range(200)]
        values = np.array([one.unbiased for one in found])
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(200)
        assert np.mean([one.p_value for one in found]) == pytest.approx(0.5, abs=0.08)

    def test_a_shift_is_significant(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((100, 3)), rng.standard_normal((100, 3)) + 0.7
        assert mmd(a, b).p_value == pytest.approx(1 / 200)

    def test_constants(self) -> None:
        found = mmd(np.ones((4, 2)), np.ones((6, 2)))
        assert found.biased == pytest.approx(0.0, abs=1e-6)
        assert found.p_value == 1.0

    def test_refusals(self) -> None:
        with pytest.raises(UsageError, match="at least 2"):
            mmd(np.ones((1, 2)), np.ones((4, 2)))
        with pytest.raises(UsageError, match="expected 2 numbers per sample"):
            mmd(np.ones((3, 2)), np.ones((4, 3)))
