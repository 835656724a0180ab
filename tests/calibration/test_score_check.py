"""How many states a verdict on the score is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.score_bias import judge_score
from ebm_export.calibration.score_check import ScoreCheck
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.engine import Engine
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

SIZE = 256
MODEL = ModelSpec("bowl", TensorSpec("x", (SIZE,), "float32"))
CONFIG = SamplerConfig(steps=24, step_size=0.1)
DIRECTION = np.full(SIZE, SIZE**-0.5, np.float32)


def bowl(gain: float = 1.0, noise: float = 0.0, bias: float = 0.0) -> FunctionEngine:
    """|x|^2 / 2. Noise is in one direction, of mean zero: that of a hash of the state."""

    def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        off = noise * np.sqrt(2) * np.sin(1e5 * x.sum(axis=1, dtype=np.float64)) + bias
        grad = gain * x + (np.sqrt(SIZE) * off)[:, None] * DIRECTION
        return 0.5 * np.square(x).sum(axis=1), grad.astype(np.float32)

    return FunctionEngine(energy)


def asked(engine: Engine, seed: int, extra_rounds: int = 2) -> tuple[bool, int]:
    """Whether an engine passes, and how many trajectories it took."""
    opened: list[int] = []

    @contextmanager
    def fp32() -> Iterator[Engine]:
        opened.append(1)
        yield bowl()

    rules = GateRules(seed=seed, extra_rounds=extra_rounds)
    check = ScoreCheck(fp32, MODEL, CONFIG, rules, conditions=lambda count: {})
    assert len(opened) == 1
    fidelity = check.fidelity(engine)
    assert fidelity[0].states == 256 * len(opened)
    return all(verdict.passed for verdict in judge_score(fidelity, rules.bias_limit)), len(opened)


@pytest.mark.parametrize(
    ("engine", "passes"), [(bowl(), True), (bowl(noise=0.02), True), (bowl(gain=1.05), False), (bowl(bias=0.05), False)]
)
def test_a_clear_case_takes_one_trajectory(engine: Engine, passes: bool) -> None:
    assert asked(engine, 0) == (passes, 1)


def test_chance_is_asked_again_and_refuses_less() -> None:
    """Noise of 30 % in one direction, with nothing systematic: its mean over 256 states is seldom below 1 %."""
    seeds = range(12)
    engine = bowl(noise=0.3)
    once = [asked(engine, seed, extra_rounds=0)[0] for seed in seeds]
    again = [asked(engine, seed) for seed in seeds]
    assert sum(passed for passed, _ in again) > sum(once)
    assert all(count == 1 for (_, count), passed in zip(again, once, strict=True) if passed)
    assert any(passed and count > 1 for passed, count in again)


def test_a_bias_over_the_limit_has_no_second_chance() -> None:
    """Of 1.5 %, in as much noise: who fails once is judged by all trajectories, not by the first that lets it pass."""
    seeds = range(12)
    again = [asked(bowl(noise=0.3, bias=0.015), seed) for seed in seeds]
    assert all(count in (1, 3) for passed, count in again if passed)
    assert sum(passed for passed, _ in again) <= len(seeds) // 2


def test_it_ends_where_nothing_decides() -> None:
    assert max(asked(bowl(noise=0.3), seed)[1] for seed in range(12)) <= 3


def test_another_engine_is_asked_at_the_same_trajectories() -> None:
    opened: list[int] = []

    @contextmanager
    def fp32() -> Iterator[Engine]:
        opened.append(1)
        yield bowl()

    check = ScoreCheck(fp32, MODEL, CONFIG, GateRules(), conditions=lambda count: {})
    noisy = [check.fidelity(bowl(noise=0.3)) for _ in range(2)]
    assert noisy[0] == noisy[1]
    recorded = len(opened)
    check.fidelity(bowl(noise=0.3))
    assert len(opened) == recorded


def steep(length: float) -> FunctionEngine:
    """A bowl in which one state of fifty has a gradient fifty times as long, times `length`; another with `length` 0 has none that is finite."""

    def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rare = (1e5 * np.abs(x.sum(axis=1, dtype=np.float64))) % 50 < 1
        factor = np.where(rare, 50.0 * length if length else np.inf, 1.0)
        return 0.5 * np.square(x).sum(axis=1), (factor[:, None] * x).astype(np.float32)

    return FunctionEngine(energy)


@pytest.mark.parametrize("mode", ["value", "norm"])
def test_gradients_are_compared_as_a_step_reads_them(mode: str) -> None:
    limit = {"value": 3.0, "norm": 3.0 * SIZE**0.5}[mode]

    def passed(engine: Engine, clip: float | None) -> dict[str, bool]:
        config = CONFIG.replace(grad_clip=clip, grad_clip_mode=mode)

        @contextmanager
        def fp32() -> Iterator[Engine]:
            yield steep(1.0)

        check = ScoreCheck(fp32, MODEL, config, GateRules(), conditions=lambda count: {})
        verdicts = judge_score(check.fidelity(engine), GateRules().bias_limit)
        return {verdict.metric: verdict.passed for verdict in verdicts}

    assert not passed(steep(0.9), None)["score gain"], "these states are most of the mean"
    assert passed(steep(0.9), limit)["score gain"], "and are the same beyond the limit"
    assert not passed(steep(0.0), limit)["score gain"], "which makes a number of what is none"
    assert not passed(bowl(gain=1.02), limit)["score gain"]
