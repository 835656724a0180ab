"""A surrogate of known acceptance: one normal density in place of another."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.calibration.exact_acceptance import ExactAcceptance, exact_acceptance, exact_settings
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.ebm import Ebm
from ebm_export.runtime.errors import DivergenceError, UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

TEMPERATURE = 0.5
CONFIG = SamplerConfig(steps=500, step_size=0.5, temperature=TEMPERATURE, warmup=100, block=40)
"""40 steps of MALA forget where they began, so that a block proposes a sample of the surrogate's density."""


def normal(curvature: float, offset: float = 0.0) -> Ebm:
    """c/2 x^2 + offset."""
    engine = FunctionEngine(lambda x: (0.5 * curvature * np.square(x).sum(axis=1) + offset, curvature * x))
    engine.open()
    return Ebm(engine, ModelSpec("normal", TensorSpec("x", (1,), "float32")), CONFIG)


def accepted(surrogate: Ebm, config: SamplerConfig = CONFIG, **changes: object) -> ExactAcceptance:
    fp32 = normal(1.0)
    fp32.sampler = config
    samples = math.sqrt(TEMPERATURE) * np.random.default_rng(0).standard_normal((200, 1))
    return exact_acceptance(surrogate, fp32, samples.astype(np.float32), {}, **{"seed": 1, **changes})


def test_the_same_energy_but_for_a_constant_accepts_all() -> None:
    for offset in (0.0, 8.0):
        found = accepted(normal(1.0, offset))
        assert found.block_acceptance == pytest.approx(1, abs=1e-5)
        assert found.low == pytest.approx(1, abs=1e-5) and found.high <= 1
    assert (found.temperature, found.chains, found.blocks, found.block) == (0.5, 64, 10, 40)
    assert 0.4 < found.acceptance < 0.75  # the steps adapt to 0.574


@pytest.mark.parametrize("curvature", [0.5, 0.25])
def test_an_energy_of_another_width_accepts_what_it_should(curvature: float) -> None:
    """y ~ N(0, v T) in place of x ~ N(0, T), v = 1 / c, is accepted with probability 2 P(|y| <= |x|) = 4/pi arctan(1 / sqrt(v))."""
    found = accepted(normal(curvature))
    truth = 4 / math.pi * math.atan(math.sqrt(curvature))
    error = (found.high - found.low) / 4
    assert 0.005 < error < 0.02
    assert abs(found.block_acceptance - truth) < 3 * error


def test_a_rougher_energy_accepts_less() -> None:
    def rough(size: float) -> Ebm:
        def score(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return (0.5 * np.square(x) + size * np.sin(30 * x)).sum(axis=1), x

        engine = FunctionEngine(score)
        engine.open()
        return Ebm(engine, ModelSpec("rough", TensorSpec("x", (1,), "float32")), CONFIG)

    found = [accepted(rough(size)).block_acceptance for size in (0.0, 0.1, 0.4)]
    assert found[0] > found[1] + 0.05 > found[2] + 0.1


def test_it_is_the_same_for_the_same_seed_and_batches_change_nothing() -> None:
    surrogate = normal(0.5)
    one = accepted(surrogate)
    assert accepted(surrogate) == one and accepted(surrogate, seed=2) != one
    surrogate._max_batch = 10
    assert accepted(surrogate).block_acceptance == pytest.approx(one.block_acceptance, rel=1e-6)


def test_each_chain_has_the_condition_of_its_sample() -> None:
    """Samples stand at their condition, so that the first states that the engine is asked about are no way off."""

    def about(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 0.5 * np.square(x - centre).sum(axis=1), x - centre

    asked: list[np.ndarray] = []

    def watched(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(x - centre)
        return about(x, centre)

    spec = ModelSpec("about", TensorSpec("x", (1,), "float32"), cond=(TensorSpec("centre", (1,), "float32"),))
    engines = [FunctionEngine(about), FunctionEngine(watched)]
    for engine in engines:
        engine.open()
    fp32, low = (Ebm(engine, spec, CONFIG.replace(steps=20, warmup=5, block=5)) for engine in engines)
    centre = np.arange(80, dtype=np.float32)[:, None]
    found = exact_acceptance(low, fp32, centre.copy(), {"centre": centre}, seed=1)
    assert found.chains == 64 and found.block_acceptance == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(asked[0], np.zeros((64, 1)))


def test_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    accepted(normal(1.0), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (64 * 500, 64 * 500)


class TestSettings:
    def test_the_last_step_of_schedules_holds_all_along(self) -> None:
        config = SamplerConfig(steps=40, step_size=(0.4, 0.1), temperature=(2.0, 0.5), anneal=4.0)
        settings = exact_settings(config)
        assert (settings.step_size, settings.temperature, settings.noise, settings.anneal) == (0.1, 0.5, None, 1.0)
        assert (settings.steps, settings.block, settings.warmup) == (config.steps, config.block, config.warmup)

    def test_noise_set_by_hand_says_the_temperature(self) -> None:
        settings = exact_settings(SamplerConfig(steps=40, step_size=0.1, noise=(0.9, 0.2)))
        assert settings.noise is None and settings.temperature == pytest.approx(0.2)

    @pytest.mark.parametrize(
        "config,said",
        [
            ({"temperature": 0.0}, "last step of the bundle's chains has no noise"),
            ({"noise": (0.1, 0.0)}, "last step of the bundle's chains has no noise"),
            ({"step_size": (0.1, 0.0)}, "last step of the bundle's chains has no noise"),
            ({"step_size": 0.0, "noise": 0.1}, "with noise set the temperature is noise"),
            ({"sampler": "hmc"}, "corrects Langevin steps: expected sampler langevin or mala, got 'hmc'"),
            ({"sampler": "optimize"}, "corrects Langevin steps: expected sampler langevin or mala, got 'optimize'"),
        ],
    )
    def test_what_has_no_exact_sampling_is_said(self, config: dict[str, object], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            exact_settings(SamplerConfig.from_dict({"steps": 40, **config}))


class TestRefusals:
    def test_blocks_that_go_nowhere(self) -> None:
        """They would be accepted all of them."""
        with pytest.raises(UsageError, match=r"only .* % of its steps are accepted at T = 0.5 after the warm-up"):
            accepted(normal(0.5), CONFIG.replace(step_size=1e6, steps=20, warmup=0))

    def test_energies_that_are_no_numbers(self) -> None:
        engine = FunctionEngine(lambda x: (np.full(len(x), np.nan, np.float32), x))
        engine.open()
        with pytest.raises(DivergenceError):
            accepted(Ebm(engine, ModelSpec("none", TensorSpec("x", (1,), "float32")), CONFIG))
