"""Where chains start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.noise import normal
from ebm_export.runtime.start import start_states

DATA = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("init", ["normal", "uniform", "data"])
def test_a_start_depends_on_seed_and_chain_alone(init: str) -> None:
    config = SamplerConfig.from_dict({"init": init, "bounds": (-2, 12)})
    everything = start_states(config, (3,), range(50), 1, DATA)
    np.testing.assert_array_equal(start_states(config, (3,), range(20, 30), 1, DATA), everything[20:30])
    assert not np.array_equal(start_states(config, (3,), range(50), 2, DATA), everything)
    assert everything.dtype == np.float32


def test_a_start_is_not_the_noise_of_a_step() -> None:
    start = start_states(SamplerConfig(), (3,), range(10), 0)
    assert not np.isin(start, normal(0, 0, range(10), (3,))).any()


def test_uniform_fills_the_bounds_and_normal_is_projected_into_them() -> None:
    uniform = start_states(SamplerConfig(init="uniform", bounds=(2, 5)), (3,), range(5000), 0)
    assert 2 <= uniform.min() < 2.01 and 4.99 < uniform.max() <= 5
    assert abs(uniform.mean() - 3.5) < 4 * np.sqrt(9 / 12 / uniform.size)
    normals = start_states(SamplerConfig(bounds=(-0.5, 1)), (3,), range(1000), 0)
    assert (normals.min(), normals.max()) == (-0.5, 1)


def test_data_picks_every_state_about_equally_often() -> None:
    picked = start_states(SamplerConfig(init="data"), (3,), range(4000), 0, DATA)
    states, counts = np.unique(picked, axis=0, return_counts=True)
    np.testing.assert_array_equal(states, DATA)
    assert abs(counts - 1000).max() < 4 * np.sqrt(4000 * 0.25 * 0.75)


def test_data_without_states() -> None:
    with pytest.raises(UsageError, match=r'init="data" starts .* there are none: pass data= an array \[M, 3\]'):
        start_states(SamplerConfig(init="data"), (3,), range(2), 0)


class TestGivenOutsideTheBounds:
    """Whatever returns the best state so far may return the start."""

    GIVEN = np.array([[5.0, -7.0, 0.25]])

    @staticmethod
    def ebm(**settings: Any) -> Ebm:
        """Its energy is lowest where a start outside of the bounds is."""
        spec = ModelSpec("slope", TensorSpec("x", (3,), "float32"))
        sign = np.array([-1, 1, 0], np.float32)
        engine = FunctionEngine(lambda x: ((sign * x).sum(1), sign + 0 * x))
        return Ebm(
            engine, spec, SamplerConfig.from_dict({"steps": 5, "step_size": 0.01, "bounds": (-1, 1), **settings})
        )

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"order": "noise-drift"},
            {"bounds_mode": "reflect"},
            *({"sampler": name} for name in ("preconditioned", "underdamped", "optimize", "mala", "hmc", "tempering")),
        ],
        ids=lambda settings: next(iter(settings.values()), "langevin"),
    )
    def test_is_brought_into_them(self, settings: dict[str, Any]) -> None:
        with self.ebm(**settings) as ebm:
            best = [
                ebm.refine(self.GIVEN, deadline_ms=10_000),
                *ebm.stream(1, x0=self.GIVEN),
                best_of(ebm, 1, 3, x0=self.GIVEN, deadline_ms=10_000),
            ]
        for one in best:
            assert abs(one.x).max() <= 1
            np.testing.assert_allclose(one.energy, one.x[:, 1] - one.x[:, 0], rtol=1e-6)

    def test_is_left_as_it_is_where_there_are_none(self) -> None:
        with self.ebm(bounds=None) as ebm:
            first = next(iter(ebm.stream(1, x0=self.GIVEN)))
        np.testing.assert_array_equal(first.x, self.GIVEN)

    def test_keeps_the_callers_array(self) -> None:
        given = self.GIVEN.astype(np.float32)
        with self.ebm() as ebm:
            ebm.refine(given)
        np.testing.assert_array_equal(given, self.GIVEN)


@pytest.mark.parametrize("init", ["x0", "data"])
def test_what_is_infinite_is_not_put_at_a_bound(init: str) -> None:
    """It would be a sample like any other."""
    config = SamplerConfig(steps=5, step_size=0.1, bounds=(-1.0, 1.0), init="data" if init == "data" else "normal")
    ebm = Ebm(
        FunctionEngine(lambda x: (0.5 * (x * x).sum(1), x)), ModelSpec("m", TensorSpec("x", (2,), "float32")), config
    )
    states = np.array([[0.5, 7.0], [np.inf, 0.0], [0.0, -np.inf], [-9.0, 0.1]], np.float32)
    given = {init: states}
    for sampler in ("langevin", "mala", "optimize"):
        with pytest.raises(DivergenceError, match="at the start; look at the states that they start from"):
            ebm.sample(4 if init == "x0" else 64, sampler=sampler, **given)
        left = ebm.sample(4 if init == "x0" else 64, sampler=sampler, diverged="drop", **given)
        assert 0 < len(left) < (4 if init == "x0" else 64) and np.isfinite(left).all()
    with pytest.raises(DivergenceError, match="4 of 4 chains .* at the start"):
        ebm.sample(4, x0=np.full((4, 2), np.inf), diverged="drop")
