"""Delayed gradient scaling."""

from __future__ import annotations

import numpy as np

from ebm_export.runtime import FunctionEngine
from ebm_export.runtime.gradient_scale import ScaledScore, first_scale, next_scale
from ebm_export.runtime.known_scales import HIGHEST_SCALE, LOWEST_SCALE, KnownScales


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


def test_first_scale_is_one_over_the_unscaled_rms() -> None:
    grad = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32) * 1e-3
    scale = np.array([1, 10, 0.1, 300], np.float32)
    result = first_scale(scale, grad * scale[:, None, None])
    np.testing.assert_allclose(result, 1 / rms(grad), rtol=1e-6)
    assert result.dtype == np.float32


def test_first_scale_looks_farther_where_an_answer_says_nothing() -> None:
    scaled = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [1e-29, -1e-29]], np.float32)
    scale = np.array([5, 6, 7, 8], np.float32)
    np.testing.assert_allclose(first_scale(scale, scaled), [5 * 2.0**8, 6 / 2.0**8, 7 / 2.0**8, 8 * 2.0**8], rtol=1e-6)


def test_next_scale_averages_the_square_of_the_size_over_the_steps() -> None:
    # v^2 <- (v^2 + 3 rms^2) / 4 by hand, for a gradient whose size jumps.
    sizes = [1.0, 0.01, 5.0, 5.0, 0.1]
    scale, squared = np.ones(1, np.float32), 1.0
    for size in sizes:
        scale = next_scale(scale, scale[:, None] * np.full((1, 4), size, np.float32))
        squared = (squared + 3 * size**2) / 4
        np.testing.assert_allclose(scale, 1 / np.sqrt(squared), rtol=1e-5)


def test_holds_where_the_gradient_is_zero_or_not_finite() -> None:
    scaled = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [3, 4]], np.float32)
    scale = np.array([5, 6, 7, 8], np.float32)
    np.testing.assert_allclose(next_scale(scale, scaled), [5, 6, 7, 16 / np.sqrt(1 + 3 * 12.5)], rtol=1e-6)


def test_stays_within_its_limits() -> None:
    scaled = np.array([[1e-38], [1e38]], np.float32)
    near = np.array([2.0**99, 1], np.float32)
    np.testing.assert_array_equal(first_scale(near, scaled), [HIGHEST_SCALE, LOWEST_SCALE])
    assert next_scale(np.array([2.0**-99], np.float32), scaled[1:]) == LOWEST_SCALE


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
    # Later scales come from the calls before: the gradient halves each time, and 1 and 1/2 make sqrt(7/16).
    np.testing.assert_allclose(rms(engine.grads[2]), 0.5, rtol=1e-5)
    np.testing.assert_allclose(rms(engine.grads[3]), 0.25 / np.sqrt(7 / 16), rtol=1e-5)
    np.testing.assert_array_equal(score.scale, engine.scales[3])


class Coarse(Recorder):
    """An engine that rounds its scaled gradient to multiples of 0.1 and clips it at 3, as INT8 does."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = super().run(inputs)
        answer["grad"] = np.clip(np.rint(answer["grad"] * 10) / 10, -3, 3).astype(np.float32)
        return answer


def test_finds_the_scale_of_an_engine_that_rounds_and_clips() -> None:
    x = np.random.default_rng(2).standard_normal((2, 50)).astype(np.float32)
    for slope in (1e-7, 1e-2, 1e6):
        score = ScaledScore(Coarse(slope), {})
        _, grad = score(x)
        relative = np.linalg.norm(grad / slope - x) / np.linalg.norm(x)
        assert relative < 0.1, slope  # 0.036 for the rounding at a size of 0.8, and what lies beyond 2.4 sigma at 1.25


class Residue(Coarse):
    """One whose roundings leave something where there should be nothing, as sums of dequantized numbers do."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = super().run(inputs)
        answer["grad"] += np.float32(1e-29)
        return answer


def test_what_roundings_leave_is_not_taken_for_a_gradient() -> None:
    """A scale of 1e29 was tried next, and the search back from there ended at a clipped gradient."""
    x = np.random.default_rng(2).standard_normal((2, 50)).astype(np.float32)
    engine = Residue(1e-3)
    _, grad = ScaledScore(engine, {})(x)
    assert len(engine.scales) == 3
    assert np.linalg.norm(grad / 1e-3 - x) < 0.1 * np.linalg.norm(x)


class Rough(Recorder):
    """One that says too little of a small gradient as well as of a large one: 0.68 of its size below one half, and 3.3 at most."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = super().run(inputs)
        grad = np.clip(answer["grad"], -3.3, 3.3)
        answer["grad"] = np.where(np.abs(grad) < 0.5, 0.68 * grad, grad).astype(np.float32)
        return answer


def test_the_search_does_not_go_to_and_fro() -> None:
    """One answer too large and one too small led back to the first, until the tries were used up."""
    engine = Rough(6.47)
    engine.known_scales = KnownScales(usual=0.734)
    score = ScaledScore(engine, {})
    _, grad = score(np.ones((1, 4), np.float32))
    assert len(engine.scales) == 6
    np.testing.assert_allclose(grad, 6.47, rtol=1e-5)
    assert score.scale is not None
    np.testing.assert_allclose(score.scale, 1 / 6.47, rtol=1e-5)


def test_the_search_begins_where_the_engine_says() -> None:
    x = np.random.default_rng(4).standard_normal((5, 50)).astype(np.float32)
    calls = []
    for usual in (1.0, 0.7e6):
        engine = Coarse(1e-6)
        engine.known_scales = KnownScales(usual=usual)
        ScaledScore(engine, {})(x)
        np.testing.assert_array_equal(engine.scales[0], np.float32(usual))
        calls.append(len(engine.scales))
    assert calls[1] == 2 < calls[0]


class TestHighestScale:
    """Where a gradient vanishes its scale stops at the highest that the bundle knows of."""

    def engine(self, slope: float, coarse: bool = False) -> Recorder:
        engine = Coarse(slope) if coarse else Recorder(slope)
        engine.known_scales = KnownScales(usual=1.0, highest=50.0)
        return engine

    def test_along_a_chain(self) -> None:
        engine = self.engine(1.0)
        score = ScaledScore(engine, {})
        x = np.random.default_rng(6).standard_normal((3, 6)).astype(np.float32)
        for step in range(12):
            _, grad = score(x / np.float32(2**step))
            np.testing.assert_allclose(grad, x / 2**step, rtol=1e-5)
        assert max(scale.max() for scale in engine.scales) == 50
        assert (engine.scales[-1] == 50).all() and (rms(engine.grads[-1]) < 0.1).all()

    def test_at_the_start_it_is_found_with_no_further_search(self) -> None:
        engine = self.engine(1e-5)
        _, grad = ScaledScore(engine, {})(x := np.ones((2, 6), np.float32))
        np.testing.assert_allclose(grad, 1e-5 * x, rtol=1e-5)
        assert [scale.max() for scale in engine.scales] == [1, 50]

    def test_a_gradient_that_is_rounded_to_zero_there_is_zero(self) -> None:
        engine = self.engine(1e-5, coarse=True)
        _, grad = ScaledScore(engine, {})(np.ones((2, 6), np.float32))
        assert (grad == 0).all() and max(scale.max() for scale in engine.scales) == 50 and len(engine.scales) < 5


def test_finds_the_scale_ahead_of_the_first_answer() -> None:
    x = np.random.default_rng(5).standard_normal((3, 6)).astype(np.float32)
    engine = Recorder(slope=1e-4)
    score = ScaledScore(engine, {})
    score.find(x)
    found = score.scale
    assert found is not None
    np.testing.assert_allclose(found, 1e4 / rms(x), rtol=1e-5)
    score.find(2 * x)  # known now
    score(x * np.float32(0.5))
    assert len(engine.scales) == 3
    np.testing.assert_array_equal(engine.scales[2], found)

    unscaled = Recorder()
    unscaled.needs_scale = False
    ScaledScore(unscaled, {}).find(x)
    assert not unscaled.scales


def test_a_chain_beside_one_that_never_settles_gets_the_scale_that_it_has_alone() -> None:
    x = np.random.default_rng(3).standard_normal((3, 50)).astype(np.float32)
    for engine in (Recorder(1e-3), Coarse(1e-3)):
        together = ScaledScore(engine, {})
        together(np.concatenate([np.zeros((1, 50), np.float32), x]))
        alone = ScaledScore(engine, {})
        alone(x)
        assert together.scale is not None
        np.testing.assert_array_equal(together.scale[1:], alone.scale)


def test_frozen_where_there_was_none_it_is_found_once_one_is_needed() -> None:
    """A warm-up in FP32 ends, and later FP16 takes over: at a scale of 1 its gradients would vanish."""
    plain, low = Recorder(1e-9), Recorder(1e-9)
    plain.needs_scale = False
    x = np.ones((2, 3), np.float32)
    score = ScaledScore(plain, {})
    score(x)
    score.freeze(score.scale)
    score.switch(low, {})
    for _ in range(2):
        score(x)
        np.testing.assert_allclose(score.scale, 1e9, rtol=0.1)
    assert (low.scales[-1] == low.scales[-2]).all()


def test_a_zero_gradient_stays_zero_and_keeps_a_harmless_scale() -> None:
    engine = Recorder(slope=0.0)
    score = ScaledScore(engine, {})
    _, grad = score(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(grad, 0)
    np.testing.assert_array_equal(score.scale, 1)
    calls = len(engine.scales)
    assert calls <= 15
    score(np.ones((2, 3), np.float32))
    assert len(engine.scales) == calls + 1
