from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.stein import kernel_stein
from ebm_export.runtime.errors import UsageError


def kernel_at(x: np.ndarray, y: np.ndarray, s, h: float) -> float:
    """u(x, y) by finite differences of k, so that no formula is used twice."""
    step = 1e-4

    def k(a, b):
        return (h**2 + np.square(a - b).sum()) ** -0.5

    width = len(x)
    axes = np.eye(width) * step
    grad_x = np.array([(k(x + e, y) - k(x - e, y)) / (2 * step) for e in axes])
    grad_y = np.array([(k(x, y + e) - k(x, y - e)) / (2 * step) for e in axes])
    mixed = sum((k(x + e, y + e) - k(x + e, y - e) - k(x - e, y + e) + k(x - e, y - e)) / (4 * step**2) for e in axes)
    return s(x) @ s(y) * k(x, y) + s(x) @ grad_y + s(y) @ grad_x + mixed


class TestKernelStein:
    def test_is_the_definition(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((5, 3))

        def score(point):
            return -(point**3)

        table = np.array([[kernel_at(a, b, score, 1.5) for b in x] for a in x])
        found = kernel_stein(x, x**3, bandwidth=1.5)
        assert found.v_statistic == pytest.approx(table.mean(), rel=1e-5)
        assert found.u_statistic == pytest.approx((table.sum() - np.trace(table)) / 20, rel=1e-5)

    def test_the_models_own_samples_have_0_in_the_mean(self) -> None:
        rng = np.random.default_rng(0)
        values = []
        for _ in range(60):
            x = rng.standard_normal((100, 2))
            values.append(kernel_stein(x, x, bandwidth=1.0).u_statistic)
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(60)

    @pytest.mark.parametrize("temperature", [0.25, 1.0])
    def test_the_right_temperature_is_nearest(self, temperature: float) -> None:
        x = np.sqrt(temperature) * np.random.default_rng(0).standard_normal((800, 2))
        right = kernel_stein(x, x, temperature=temperature)
        assert right.u_statistic < 0.02 * kernel_stein(x, x, temperature=2 * temperature).v_statistic + 0.02
        assert kernel_stein(1.3 * x, 1.3 * x, temperature=temperature).v_statistic > 3 * right.v_statistic

    def test_wide_samples_in_float32(self) -> None:
        x = np.random.default_rng(0).standard_normal((1200, 50))
        found = kernel_stein(x, x)
        assert abs(found.u_statistic) < 0.1 * found.v_statistic * 10
        assert kernel_stein(x + 0.3, x + 0.3).u_statistic > 20 * abs(found.u_statistic)

    def test_equal_samples_and_refusals(self) -> None:
        assert np.isfinite(kernel_stein(np.ones((4, 2)), np.ones((4, 2))).u_statistic)
        with pytest.raises(UsageError, match=r"grad: expected the shape of x, \[4, 2\], got \[4, 3\]"):
            kernel_stein(np.ones((4, 2)), np.ones((4, 3)))
        with pytest.raises(UsageError, match="temperature: expected a number above 0, got 0"):
            kernel_stein(np.ones((4, 2)), np.ones((4, 2)), temperature=0)
        with pytest.raises(UsageError, match="grad: expected finite"):
            kernel_stein(np.ones((4, 2)), np.full((4, 2), np.nan))
