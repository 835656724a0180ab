"""Bounds of a density that is known on paper: the normal one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.calibration.likelihood import Likelihood, check_likelihood, likelihood_bounds
from ebm_export.calibration.sample_set import SampleSet
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.ebm import Ebm
from ebm_export.runtime.errors import UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

WIDE = math.sqrt(2.0)
"""Deviation of exp(-|x|^2 / 2 / T) at T = 2."""
CONFIG = SamplerConfig(steps=50, step_size=0.1, temperature=2.0)


def normal_samples(seed: int, width: float = WIDE, count: int = 400) -> SampleSet:
    x = (width * np.random.default_rng(seed).standard_normal((count, 2))).astype(np.float32)
    return SampleSet(x, 0.5 * np.square(x).sum(axis=1))


def found(config: SamplerConfig = CONFIG, **changes: object) -> Likelihood:
    engine = FunctionEngine(lambda x: (0.5 * np.square(x).sum(axis=1), x))
    engine.open()
    ebm = Ebm(engine, ModelSpec("normal", TensorSpec("x", (2,), "float32")), config)
    sets = {"fp32": normal_samples(1), "tame": normal_samples(2, 0.5)}
    return likelihood_bounds(ebm, normal_samples(0), sets, **{"temperatures": 60, "cond": {}, **changes})


def density(samples: SampleSet, log_z: float) -> float:
    """The mean log density at T = 2."""
    return float(-samples.energy.mean() / 2.0 - log_z)


def test_the_truth_lies_between_the_bounds() -> None:
    bounds = found()
    log_z = math.log(2 * math.pi * 2.0)
    assert bounds.temperature == 2.0 and bounds.base.startswith("a normal density of mean")
    room = 4 * (bounds.log_z.lower_error + (bounds.log_z.upper_error or 0.0)) + 1e-4
    assert room < 0.2
    for name, samples in (("fp32", normal_samples(1)), ("tame", normal_samples(2, 0.5))):
        low, high = bounds.engines[name]
        assert low is not None
        assert low - room < density(samples, log_z) < high + room
        assert high - low < room
    assert bounds.engines["tame"][1] > bounds.engines["fp32"][1] + 0.5  # more likely is not better


def test_bounds_of_the_sampler_bound_the_density() -> None:
    """Over a box of -1 to 1 the integral is that of the error function."""
    config = SamplerConfig(steps=50, step_size=0.1, temperature=2.0, bounds=(-1.0, 1.0))
    bounds = found(config)
    log_z = 2 * math.log(math.sqrt(2 * math.pi * 2.0) * math.erf(1 / WIDE / math.sqrt(2)))
    assert bounds.base == "the uniform density from -1 to 1"
    assert bounds.log_z.lower == pytest.approx(log_z, abs=4 * bounds.log_z.lower_error + 0.01)


def test_given_data() -> None:
    data = normal_samples(5).x
    bounds = found(data=data)
    low, high = bounds.data or (None, 0.0)
    assert low is not None
    assert low - 0.1 < density(normal_samples(5), math.log(4 * math.pi)) < high + 0.1
    assert found().data is None


def test_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    found(progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 180) for done in range(1, 181)]


def test_samples_that_are_not_finite_have_no_likelihood() -> None:
    broken = normal_samples(3)
    broken.energy[0] = np.inf
    engine = FunctionEngine(lambda x: (0.5 * np.square(x).sum(axis=1), x))
    engine.open()
    ebm = Ebm(engine, ModelSpec("normal", TensorSpec("x", (2,), "float32")), CONFIG)
    sets = {"fp32": normal_samples(1), "broken": broken}
    assert list(likelihood_bounds(ebm, normal_samples(0), sets, temperatures=4, cond={}).engines) == ["fp32"]


class TestRefusals:
    def test_few_temperatures(self) -> None:
        with pytest.raises(UsageError, match="expected at least 2 temperatures, got 1; 200 is a good start"):
            check_likelihood(1, CONFIG, {}, None)

    def test_chains_that_come_to_rest(self) -> None:
        with pytest.raises(UsageError, match="this bundle's chains come to rest"):
            check_likelihood(20, SamplerConfig(noise=0.0), {}, None)

    @pytest.mark.parametrize("settings", [{"noise": (0.1, 0.0)}, {"temperature": (1.0, 0.0)}])
    def test_chains_whose_noise_ends(self, settings: dict[str, object]) -> None:
        with pytest.raises(UsageError, match="^--likelihood: the last step of the bundle's chains has no noise"):
            check_likelihood(20, SamplerConfig(**settings), {}, None)

    def test_step_sizes_that_end_keep_the_temperature(self) -> None:
        config = SamplerConfig(step_size=(0.1, 0.0), temperature=2.0)
        check_likelihood(20, config, {}, None)
        assert found(config).temperature == 2.0

    def test_several_conditions(self) -> None:
        rows = np.arange(4, dtype=np.float32)[:, None] % 2
        with pytest.raises(UsageError, match="there are 2; give one row with --cond obs=FILE.npy"):
            check_likelihood(20, CONFIG, {"obs": rows}, None)
        check_likelihood(20, CONFIG, {"obs": rows[::2]}, None)

    def test_data_outside_of_the_bounds(self) -> None:
        config = SamplerConfig(bounds=(0.0, 1.0))
        with pytest.raises(UsageError, match="numbers from -1 to 0.5, and the sampler's bounds are 0 to 1"):
            check_likelihood(20, config, {}, np.array([[-1.0, 0.5]], np.float32))
        check_likelihood(20, config, {}, np.array([[0.0, 1.0]], np.float32))

    def test_data_that_are_no_numbers(self) -> None:
        with pytest.raises(UsageError, match="--data: expected finite numbers"):
            check_likelihood(20, CONFIG, {}, np.array([[np.nan, 1.0]], np.float32))
