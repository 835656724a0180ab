from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ebm_export.calibration.metrics.frechet import frechet_distance, frechet_p_value
from ebm_export.runtime.errors import UsageError


class TestFrechetDistance:
    def test_is_the_formula_with_matrix_roots(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 4)), 2 + rng.standard_normal((50, 4))
        one, two = np.cov(a.T), np.cov(b.T)
        apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
        truth = apart + np.trace(one + two - 2 * sqrtm(one @ two)).real
        assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-9)

    def test_a_shift_and_a_width(self) -> None:
        x = np.random.default_rng(0).standard_normal((30, 5))
        assert frechet_distance(x, x + 2.0) == pytest.approx(20.0)
        spread = np.trace(np.cov(x.T))
        moved = 3.0 * x - 2.0 * x.mean(axis=0)  # same mean, three times as wide
        assert frechet_distance(x, moved) == pytest.approx(4.0 * spread)

    def test_fewer_samples_than_numbers(self) -> None:
        x = np.random.default_rng(0).standard_normal((10, 40))
        assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-12)
        assert frechet_distance(x, x[:6] + 1.0) > 0.0

    def test_the_chance_distance_that_the_docstring_states(self) -> None:
        rng = np.random.default_rng(0)
        found = [frechet_distance(rng.standard_normal((200, 3)), rng.standard_normal((200, 3))) for _ in range(100)]
        assert np.mean(found) == pytest.approx(3 * (2 / 200) * (1 + 4 / 4), rel=0.1)

    def test_constants_and_refusals(self) -> None:
        assert frechet_distance(np.ones((3, 2)), np.ones((4, 2))) == 0.0
        with pytest.raises(UsageError, match="at least 2"):
            frechet_distance(np.ones((1, 2)), np.ones((4, 2)))
        with pytest.raises(UsageError, match="expected 2 numbers"):
            frechet_distance(np.ones((3, 2)), np.ones((4, 3)))


def test_p_value() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((100, 3)), rng.standard_normal((150, 3))
    assert frechet_p_value(a, b) > 0.05
    assert frechet_p_value(a, 1.5 * b) == pytest.approx(1 / 200)
    assert frechet_p_value(np.ones((5, 2)), np.ones((5, 2))) == 1.0
