"""How far several steps in one call can be compared with single ones."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig, fused_check
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.fused_check import steps_to_compare, why_steps_differ
from ebm_export.runtime.fused_steps import Fused


def test_states_on_a_bound_are_not_disturbed_across_it() -> None:
    """Beyond the bound there is no energy, and the first step would be the last one that is compared."""

    def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return (np.sqrt(x) * x).sum(axis=1) * np.float32(2 / 3), np.sqrt(x)

    config = SamplerConfig(steps=16, step_size=0.1, temperature=0.0, bounds=(0.0, 1.0))
    x = np.array([[0.0, 0.5], [1.0, 0.0]], np.float32)
    with FunctionEngine(energy) as engine:
        assert steps_to_compare(engine, config, x, {}, "fp16", 16) == 16


def test_a_chain_that_multiplies_rounding_is_compared_at_its_first_steps() -> None:
    """x -> x + 6 sin x doubles what rounding does and more at each step."""

    def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.cos(x).sum(axis=1), -np.sin(x)

    config = SamplerConfig(steps=64, step_size=6.0, temperature=0.0)
    x = np.linspace(0.5, 2.5, 8, dtype=np.float32).reshape(4, 2)
    with FunctionEngine(energy) as engine:
        assert 1 < steps_to_compare(engine, config, x, {}, "fp16", 64) < 32


def test_what_a_chain_at_rest_and_one_that_runs_away_do_are_not_one_chains_doing() -> None:
    """The first is off by much of its way, as it has none, and the second by much, of a way that is longer still."""

    def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(x > 0, -x * x / 2, (x + 1) ** 2 / 2).sum(axis=1), np.where(x > 0, -x, x + 1)

    config = SamplerConfig(steps=16, step_size=0.5, temperature=0.0)
    x = np.array([[-1.0, -1.0], [1.0, 1.0]], np.float32)
    with FunctionEngine(energy) as engine:
        assert steps_to_compare(engine, config, x, {}, "fp32", 16) == 16


def test_a_leap_that_one_of_many_disturbed_runs_takes_is_found() -> None:
    """A chain climbs past a place at which the slope jumps. Where it is asked just before it, another rounding may see the far side."""

    def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        beyond = x > np.float32(1.5 + 1.8e-6)
        return np.where(beyond, -3 * x, -x).sum(axis=1), np.where(beyond, np.float32(-3), np.float32(-1))

    config = SamplerConfig(steps=32, step_size=2.0**-5, temperature=0.0)
    x = np.ones((1, 3), np.float32)
    with FunctionEngine(energy) as engine:
        assert steps_to_compare(engine, config, x, {}, "int8", 32) == 16


def test_no_more_chains_than_the_engine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        fused_check, "_why_paths_differ", lambda e, f, c, x, cond, *rest: asked.append((len(x), len(cond["centre"])))
    )
    engine = FunctionEngine(lambda x, centre: (x.sum(1), x))
    config = SamplerConfig(steps=4, step_size=0.1)
    golden = {"x": np.zeros((2, 8, 3), np.float32), "step": np.arange(2), "cond.centre": np.zeros((2, 8, 3))}
    for largest, rows in ((None, 8), (3, 3), (64, 8)):
        asked.clear()
        engine.largest_batch = largest
        assert why_steps_differ(engine, Fused(engine, 4, config), config, golden, "fp32") is None
        assert set(asked) == {(rows, rows)}


def test_chains_that_share_a_condition_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they start; later each has its own."""
    alike: list[bool] = []
    monkeypatch.setattr(
        fused_check,
        "_why_paths_differ",
        lambda e, f, c, x, cond, *rest: alike.append(bool((cond["centre"] == cond["centre"][:1]).all())),
    )
    engine = FunctionEngine(lambda x, centre: (x.sum(1), x))
    config = SamplerConfig(steps=4, step_size=0.1, temperature=0.0)
    centre = np.random.default_rng(0).standard_normal((3, 8, 3)).astype(np.float32)
    golden = {"x": np.zeros((3, 8, 3), np.float32), "step": np.arange(3), "cond.centre": centre}
    assert why_steps_differ(engine, Fused(engine, 4, config), config, golden, "fp32") is None
    assert alike == [True, False, False]
