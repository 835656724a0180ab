"""Delayed gradient scaling."""

from __future__ import annotations

import numpy as np

from ebm_export.runtime import FunctionEngine
from ebm_export.runtime.gradient_scale import HIGHEST_SCALE, LOWEST_SCALE, ScaledScore, next_scale


class Recorder(FunctionEngine):
    """Keeps the scale of every call and the scaled gradient that went back."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__(lambda x: (0.5 * slope * (x * x).sum(axis=1), slope * x))
        self.scales: list[np.ndarray] = []
        self.grads: list[np.ndarray] = []

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = super().run(inputs)
        self.scales.append(inputs["grad_scale"].copy())
        self.grads.append(answer["grad"].copy())
        return answer


def rms(batch: np.ndarray) -> np.ndarray:
    return np.sqrt((batch.astype(np.float64) ** 2).reshape(len(batch), -1).mean(axis=1))


def test_next_scale_is_one_over_the_unscaled_rms() -> None:
    grad = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32) * 1e-3
    scale = np.array([1, 10, 0.1, 300], np.float32)
    scaled = grad * scale[:, None, None]
    result = next_scale(scale, scaled)
    np.testing.assert_allclose(result, 1 / rms(grad), rtol=1e-6)
    assert result.dtype == np.float32


def test_holds_where_the_gradient_is_zero_or_not_finite() -> None:
    scaled = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [3, 4]], np.float32)
    scale = np.array([5, 6, 7, 8], np.float32)
    np.testing.assert_allclose(next_scale(scale, scaled), [5, 6, 7, 8 / np.sqrt(12.5)], rtol=1e-6)


def test_stays_within_its_limits() -> None:
    scaled = np.array([[1e-38], [1e38]], np.float32)
    np.testing.assert_array_equal(next_scale(np.ones(2, np.float32), scaled), [HIGHEST_SCALE, LOWEST_SCALE])


def test_first_answer_takes_two_calls_and_every_other_one() -> None:
    engine = Recorder(slope=1e-4)
    score = ScaledScore(engine, {})
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    for factor in (1.0, 0.5, 0.25):
        _, grad = score(x * np.float32(factor))
        np.testing.assert_allclose(grad, 1e-4 * factor * x, rtol=1e-5)
    assert len(engine.scales) == 4
    np.testing.assert_array_equal(engine.scales[0], np.ones(3))
    np.testing.assert_allclose(rms(engine.grads[1]), 1, rtol=1e-5)
    # Later scales come from the call before: the gradient halves each time.
    np.testing.assert_allclose(rms(engine.grads[2]), 0.5, rtol=1e-5)
    np.testing.assert_allclose(rms(engine.grads[3]), 0.5, rtol=1e-5)
    np.testing.assert_array_equal(score.scale, engine.scales[3])
