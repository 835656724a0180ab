from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.calibration.metrics.score_fidelity import StageFidelity, score_fidelity
from ebm_export.calibration.score_bias import judge_score
from ebm_export.runtime.errors import UsageError

STEPS = [0, 10, 20, 30, 40, 50, 60]


def stages(gain=0.0, bias=0.0, gain_error=0.0005, bias_error=0.0005, first: int = 0) -> list[StageFidelity]:
    """Fidelity whose gain and bias are as given from stage `first` on."""
    return [
        StageFidelity(
            index,
            step,
            1.0,
            1.0,
            gain * (index >= first),
            gain_error,
            bias * (index >= first),
            bias_error,
            0.1,
            0.1,
            64,
            (bias * (index >= first)) ** 2,
            2 * abs(bias) * bias_error + bias_error**2,
        )
        for index, step in enumerate(STEPS)
    ]


def test_two_percent_fails_and_half_a_percent_passes() -> None:
    for sign in (1, -1):
        gain, bias = judge_score(stages(gain=sign * 0.02), 0.01)
        assert not gain.passed
        assert gain.decided
        assert gain.ratio == pytest.approx(2.0, rel=0.01)
        assert bias.passed
    gain, bias = judge_score(stages(bias=0.02), 0.01)
    assert gain.passed
    assert not bias.passed
    assert all(verdict.passed and verdict.decided for verdict in judge_score(stages(0.005, 0.005), 0.01))


@pytest.mark.parametrize("first", [3, 5])
def test_late_stages_suffice(first: int) -> None:
    """The last half, and the last two of seven."""
    verdict = judge_score(stages(gain=0.02, gain_error=0.0, first=first), 0.01)[0]
    assert not verdict.passed
    # Stages weigh as their steps do: 30 to 60 are 180 of 210, 50 and 60 are 110.
    assert verdict.value == pytest.approx(0.02 * math.sqrt(sum(STEPS[first:]) / sum(STEPS)))


def test_the_start_counts_for_nothing() -> None:
    early = stages()
    early[0] = stages(gain=0.5)[0]
    assert judge_score(early, 0.01)[0].passed


def test_gains_of_both_signs_do_not_cancel() -> None:
    mixed = [stages(gain=0.02 * (-1) ** index)[index] for index in range(len(STEPS))]
    assert not judge_score(mixed, 0.01)[0].passed


def test_chance_is_taken_out_of_the_gain() -> None:
    """Stages without gain, measured with an error as large as the limit: the size is near 0, and open."""
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(200):
        measured = [
            StageFidelity(i, step, 1.0, 1.0, 0.01 * rng.standard_normal(), 0.01, 0.0, 0.0, 0.1, 0.1, 4, 0.0, 0.0)
            for i, step in enumerate(STEPS)
        ]
        verdict = judge_score(measured, 0.01)[0]
        sizes.append(verdict.value)
        assert verdict.high > 1.0
    assert np.median(sizes) < 0.005


def test_too_few_states_leave_it_open() -> None:
    passing = judge_score(stages(gain=0.005, gain_error=0.02), 0.01)[0]
    assert passing.passed
    assert not passing.decided
    failing = judge_score(stages(gain=0.022, gain_error=0.02), 0.01)[0]
    assert not failing.passed or not failing.decided


def test_measured_gradients() -> None:
    rng = np.random.default_rng(0)
    exact = [rng.standard_normal((64, 100)) for _ in STEPS]

    def measured(change):
        return [
            score_fidelity(g, change(g), stage=i, step=s) for i, (s, g) in enumerate(zip(STEPS, exact, strict=True))
        ]

    def noisy(g):
        return g + 0.1 * np.random.default_rng(1).standard_normal(g.shape)

    assert all(verdict.passed and verdict.decided for verdict in judge_score(measured(noisy), 0.01))
    assert not judge_score(measured(lambda g: 1.02 * noisy(g)), 0.01)[0].passed
    assert not judge_score(measured(lambda g: noisy(g) + 0.02), 0.01)[1].passed


@pytest.mark.parametrize(("size", "passes"), [(0.015, True), (0.03, False)])
def test_errors_of_both_signs_at_two_conditions(size: float, passes: bool) -> None:
    """The mean over conditions shows nothing; each may be off by twice the limit."""
    rng = np.random.default_rng(0)
    own = np.arange(64) % 2
    sign = np.where(own, 1, -1)[:, None]

    def judged(change) -> dict[str, bool]:
        grads = [rng.standard_normal((64, 400)) for _ in STEPS]
        measured = [
            score_fidelity(g, change(g), conditions=own, stage=i, step=s)
            for i, (s, g) in enumerate(zip(STEPS, grads, strict=True))
        ]
        return {verdict.metric: verdict.passed for verdict in judge_score(measured, 0.01)}

    fine = {"score gain": True, "score bias": True}
    assert judged(lambda g: g + size * sign) == {
        **fine,
        "score gain by condition": True,
        "score bias by condition": passes,
    }
    assert judged(lambda g: g * (1 + size * sign)) == {
        **fine,
        "score gain by condition": passes,
        "score bias by condition": True,
    }


@pytest.mark.parametrize(("states", "width", "noise"), [(256, 2, 0.3), (32, 8, 0.2)])
def test_noise_alone_is_no_bias(states: int, width: int, noise: float) -> None:
    """In few dimensions the mean error of noise varies much from stage to stage; what varies around 0 has mean 0."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        exact = [rng.standard_normal((states, width)) for _ in STEPS]
        measured = [
            score_fidelity(g, g + noise * rng.standard_normal(g.shape), stage=i, step=s)
            for i, (s, g) in enumerate(zip(STEPS, exact, strict=True))
        ]
        found.append(judge_score(measured, 0.01)[1])
    # Half of the sums are below 0. Were each stage cut at 0 first, the median would be about 0.01.
    assert sum(verdict.value == 0 for verdict in found) >= 13
    assert not any(verdict.decided for verdict in found if not verdict.passed)


def test_nan_fails() -> None:
    verdicts = judge_score(stages(gain=math.nan, bias=math.nan), 0.01)
    assert not any(verdict.passed for verdict in verdicts)
    assert "not finite" in verdicts[0].note


def test_nan_fails_at_the_start_too() -> None:
    """A start counts for nothing, but a chain ends there."""
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((64, 5))
    broken = reference.copy()
    broken[3, 2] = math.nan
    stages = [
        score_fidelity(reference, found, stage=stage, step=50 * stage)
        for stage, found in enumerate([broken, reference, reference])
    ]
    for verdict in judge_score(stages, 0.01):
        assert not verdict.passed and verdict.note == "the gradient is not finite"


def test_no_stages_and_a_wrong_limit() -> None:
    assert judge_score([], 0.01) == []
    with pytest.raises(UsageError, match="bias_limit: expected a number above 0, got 0"):
        judge_score(stages(), 0)


def test_only_the_start_measured() -> None:
    assert not judge_score(stages(gain=0.02)[:1], 0.01)[0].passed
