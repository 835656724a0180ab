"""Chains whose numbers are finite, and orders of magnitude outside of what the export saw."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig, load
from ebm_export.runtime.composition import compose
from ebm_export.runtime.device_loop import BestOnDevice, DeviceLoop, Handover
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.runaway import Runaways

from .tiny_bundle import write_bundle

CLIFF = 2.0
MODEL = ModelSpec("cliff", TensorSpec("x", (1,), "float32"), range=(-3.0, 3.0), energies=(0.0, 4.5))
STEPS = SamplerConfig(steps=30, step_size=0.1, temperature=0.01)


def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x^2 / 2, and thirty times as steep from 2 on, where a step of 0.1 takes x to -2 x."""
    outside = abs(x) > CLIFF
    energy = np.where(outside, 15 * x * x - 14.5 * CLIFF**2, 0.5 * x * x)
    return energy[:, 0].astype(np.float32), np.where(outside, 30 * x, x).astype(np.float32)


def hill(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-x^2 / 2, which nothing ever ends on."""
    return -0.5 * (x * x).sum(axis=1), -x


def slope(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return -50 * x.sum(axis=1), np.full_like(x, -50)


def ebm(function: Any = cliff, model: ModelSpec = MODEL, config: SamplerConfig = STEPS, **given: Any) -> Ebm:
    return Ebm(FunctionEngine(function), model, config, **given)


def test_they_are_an_error_with_numbers() -> None:
    message = (
        r"^\d of 64 chains have run away \(x from -\S+e\+09 to \S+e\+09, where the export saw -3 to 3, and energies from \S+e\+1\d to "
        r"\S+e\+\d\d, where it saw 0 to 4.5\) after step 30; try a smaller step_size, .*--diverged drop"
    )
    with ebm() as some, pytest.raises(DivergenceError, match=message):
        some.sample(64)


@pytest.mark.parametrize(
    "settings",
    [
        {"order": "noise-drift"},
        {"sampler": "underdamped", "step_size": 0.09},
        {"sampler": "optimize", "step_size": 0.15},
        {"sampler": "preconditioned", "warmup": 0},
    ],
    ids=str,
)
def test_in_each_sampler_that_cannot_reject(settings: dict[str, Any]) -> None:
    with ebm() as some, pytest.raises(DivergenceError, match="run away"):
        some.sample(64, **settings)


@pytest.mark.parametrize(
    "settings", [{"sampler": "mala"}, {"sampler": "hmc"}, {"sampler": "tempering", "ladder": (1.0, 2.0)}, {}], ids=str
)
def test_down_a_slope_without_end(settings: dict[str, Any]) -> None:
    """Which samplers that reject go down too, and exact sampling (the last)."""
    exact = None if settings else FunctionEngine(slope)
    config = STEPS.replace(steps=400, temperature=1.0, **settings)
    with ebm(slope, config=config, exact=exact) as some, pytest.raises(DivergenceError, match="run away"):
        some.sample(8)


def test_drop_leaves_them_out_and_restart_runs_them_again(caplog: pytest.LogCaptureFixture) -> None:
    with ebm() as some:
        left = some.sample(64, diverged="drop")
        assert 40 < len(left) < 64 and abs(left).max() <= CLIFF
        dropped = caplog.messages[-1].partition("dropped: ")[2].split(", ")
        assert len(dropped) == 64 - len(left)
        whole = some.sample(64, diverged="restart")
        assert caplog.messages[-1].endswith("started anew (1 of 3): " + ", ".join(dropped))
    assert len(whole) == 64 and abs(whole).max() <= CLIFF
    np.testing.assert_array_equal(np.delete(whole, np.array(dropped, int), axis=0), left)


def test_a_chain_that_ran_away_each_time_is_named() -> None:
    with (
        ebm(hill) as some,
        pytest.raises(DivergenceError, match="^chain 0, started anew 3 times, has run away .x from"),
    ):
        some.sample(2, diverged="restart", steps=200)


def test_it_is_told_of_a_chain_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """What others in the batch start from does not matter."""
    x0 = np.zeros((3, 1), np.float32)
    x0[0], x0[2] = 2.5, 1e8
    with ebm(config=STEPS.replace(noise=0.0)) as some:
        for size in (1, 3):
            left = some.refine(x0, diverged="drop", max_batch=size)
            assert caplog.messages[-1].endswith("dropped: 0, 2") and len(left) == 1


@pytest.mark.parametrize("every", [5, 6])
def test_states_on_the_way_are_looked_at_where_they_are_written(every: int, tmp_path: Path) -> None:
    """A chain that came back at the end is lost too, and is not in the file."""
    config = STEPS.replace(noise=0.0, step_size=[0.1] * 12 + [1 / 30] * 3)
    x0 = np.array([[0.5], [2.5]], np.float32)
    with ebm(config=config.replace(steps=15)) as some:
        ends = some.refine(x0)
        assert abs(ends).max() < 3  # where a step of 1 / 30 takes any x to
        some.refine(x0, every=every, out=tmp_path / "states.npy", diverged="drop")
    states = np.load(tmp_path / "states.npy")
    assert np.isfinite(states[:, 0]).all()
    assert np.isnan(states[:, 1]).all()


class Loop(DeviceLoop):
    """Steps of 0.1 without noise."""

    def run(self, start: Handover) -> tuple[np.ndarray, np.ndarray]:
        x = start.position.copy()
        for _ in range(start.config.steps - start.done):
            x -= np.float32(0.1) * cliff(x)[1]
        return x, np.full(len(x), -1, np.int32)

    def run_while(self, start: Handover, energy: np.ndarray, goes_on: Any) -> BestOnDevice:
        raise NotImplementedError


class OnDevice(FunctionEngine):
    def device_loop(self) -> DeviceLoop:
        return Loop()


def test_chains_on_a_device_are_looked_at_at_their_end() -> None:
    x0 = np.array([[0.5], [2.5], [1.0]], np.float32)
    with Ebm(OnDevice(cliff), MODEL, STEPS.replace(noise=0.0)) as some:
        with pytest.raises(DivergenceError, match=r"^1 of 3 chains have run away .* after step 30"):
            some.refine(x0)
        assert len(some.refine(x0, diverged="drop")) == 2


@pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
def test_a_deadline_tells_of_a_best_state_that_is_none(order: Any, caplog: pytest.LogCaptureFixture) -> None:
    with ebm(hill, config=STEPS.replace(order=order)) as some:
        best = some.sample(4, steps=200, deadline_ms=60_000)
        assert best.diverged.all() and "4 of 4 chains have run away" in caplog.text
        caplog.clear()
        assert not some.sample(4, steps=20, deadline_ms=60_000).diverged.any() and not caplog.messages
        *_, last = some.stream(4, steps=200)
        assert last.diverged.all()
        caplog.clear()
    with ebm(config=STEPS.replace(order=order)) as some:  # where the best is from before
        with pytest.raises(DivergenceError, match="run away"):
            some.sample(64)
        best = some.sample(64, deadline_ms=60_000)
        assert best.complete and not best.diverged.any() and abs(best.x).max() < 5


def test_a_deadline_leaves_no_time_to_ask_for_them() -> None:
    def calls(model: ModelSpec) -> int:
        asked = []

        def counted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            asked.append(len(x))
            return hill(x)

        with ebm(counted, model) as some:
            some.sample(4, steps=200, deadline_ms=60_000)
        return len(asked)

    assert calls(MODEL) == calls(dataclasses.replace(MODEL, range=None))


def test_where_all_ran_away_none_is_left() -> None:
    with ebm(hill) as some, pytest.raises(DivergenceError, match=r"^4 of 4 chains have diverged after step 200; try"):
        some.sample(4, steps=200, diverged="drop")


def test_what_is_less_is_a_warning_with_numbers(caplog: pytest.LogCaptureFixture) -> None:
    with ebm() as some:
        for _ in range(2):
            some.refine(np.array([[2.5], [0.0]], np.float32), steps=6, noise=0.0)
    expected = (
        "1 of 2 chains are far from where the export's own were (x from 160 to 160, where the export saw -3 to 3, and energies from "
        "3.84e+05 to 3.84e+05, where it saw 0 to 4.5): the steps may be too large (see step_size, grad_clip, bounds); "
        "energy_range=(LOWEST, HIGHEST) (--energy-range) says at which energies chains are well"
    )
    assert caplog.messages == [expected]  # once, however many calls a control loop makes


def test_chains_that_slide_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with ebm(lambda x: (-x.sum(axis=1), -np.ones_like(x)), BOWL) as some:
        some.sample(6, steps=1000)
    assert len(caplog.messages) == 1 and "6 of 6 chains are far from" in caplog.text


def test_an_energy_range_takes_its_place() -> None:
    with ebm() as some:
        assert abs(some.sample(64, energy_range=(-np.inf, np.inf))).max() > 1e9


def bowl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * (x * x).sum(axis=1), x


def heavy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.log1p(x * x).sum(axis=1), 2 * x / (1 + x * x)


def well_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat, with a wall at 0 that is as high as float32 goes."""
    return (0.1 / x**12).sum(axis=1), np.zeros_like(x)


BOWL = ModelSpec("bowl", TensorSpec("x", (4,), "float32"), range=(-3.2, 3.1), energies=(0.4, 6.0))
FAR_OUT = np.full((6, 4), 1e5, np.float32)


@pytest.mark.parametrize(
    ("function", "call", "settings"),
    [
        (bowl, {}, {"temperature": 5000.0}),
        (bowl, {}, {"temperature": 5000.0, "sampler": "mala"}),
        (bowl, {}, {"temperature": 5000.0, "sampler": "hmc"}),
        (bowl, {}, {"temperature": 5000.0, "sampler": "underdamped"}),
        (bowl, {}, {"noise": 30.0}),
        (bowl, {"x0": FAR_OUT}, {}),
        (bowl, {"x0": FAR_OUT}, {"order": "noise-drift"}),
        (bowl, {"x0": FAR_OUT}, {"sampler": "tempering"}),
        (bowl, {"x0": FAR_OUT, "keep": np.eye(1, 4, dtype=bool)}, {}),
        (bowl, {"data": FAR_OUT}, {"init": "data"}),
        (heavy, {"x0": FAR_OUT}, {"step_size": 5.0}),
        (heavy, {}, {"step_size": 5.0, "steps": 3000}),
        (well_of, {}, {"step_size": 0.01}),
        (lambda x: (-x.sum(axis=1), -np.ones_like(x)), {}, {"steps": 400}),
    ],
)
def test_honest_runs_hear_nothing(
    function: Any, call: dict[str, Any], settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = SamplerConfig(**({"steps": 100, "step_size": 0.1} | settings))
    with ebm(function, BOWL, config) as some:
        found = some.sample(6, **call)
    assert np.isfinite(found).all() and not caplog.messages


@pytest.mark.parametrize("energies", [None, (0.0, 6.0)])
def test_an_observation_may_lead_anywhere(
    energies: tuple[float, float] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """To where no chain of the export's was, and down from an energy that none of them had."""
    model = dataclasses.replace(BOWL, cond=(TensorSpec("goal", (4,), "float32"),), energies=energies)
    with ebm(lambda x, goal: bowl(x - goal), model, SamplerConfig(steps=60, step_size=0.1)) as some:
        found = some.sample(6, goal=np.full((1, 4), 500, np.float32))
        assert found.min() > 490 and not caplog.messages
        assert some.sample(6, goal=np.full((1, 4), 1e9, np.float32)).min() > 9e8
        assert len(caplog.messages) == 1 and "6 of 6 chains are far from" in caplog.text


def test_tails_have_not_run_away(caplog: pytest.LogCaptureFixture) -> None:
    """A million samples of a Cauchy distribution, of which the export saw 96; of the farthest there may be a line."""
    rng = np.random.default_rng(0)
    seen, x = rng.standard_cauchy((96, 1)).astype(np.float32), rng.standard_cauchy((1_000_000, 1)).astype(np.float32)
    energies = heavy(seen)[0]
    model = ModelSpec(
        "tail",
        TensorSpec("x", (1,), "float32"),
        range=(float(seen.min()), float(seen.max())),
        energies=(float(energies.min()), float(energies.max())),
    )
    runaways = Runaways(model, SamplerConfig())
    assert not runaways.near(x)
    assert runaways.look(x, np.zeros_like(x), lambda x: heavy(x)[0]) is None
    assert len(caplog.messages) == 1


def test_steps_that_are_too_large_for_bounds_run_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    with ebm(config=STEPS.replace(bounds=(-500.0, 500.0))) as some:
        some.sample(64)
    assert not caplog.messages


@pytest.mark.parametrize("energies", [None, (0.0, 4.5)])
@pytest.mark.parametrize("level", [0.0, 1e4])
def test_far_away_the_energy_may_say_nothing(
    energies: tuple[float, float] | None, level: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Not known from the export, or the same everywhere out there: a warning, until it is a million times as far."""

    def plateau(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energy, grad = cliff(x)
        return np.minimum(energy, level), grad

    model = dataclasses.replace(MODEL, energies=energies)
    x0 = np.array([[2.5]], np.float32)
    wild = level > 0  # beyond what the start and T = 1 allow for
    with ebm(plateau, model, STEPS.replace(noise=0.0)) as some:
        if wild:
            with pytest.raises(DivergenceError, match="run away"):
                some.refine(x0, steps=12)
        else:
            assert some.refine(x0, steps=12) == pytest.approx(2.5 * 2**12)
            assert len(caplog.messages) == 1
        with pytest.raises(DivergenceError, match="run away"):
            some.refine(x0, steps=24)


def test_without_a_range_nothing_is_looked_for(caplog: pytest.LogCaptureFixture) -> None:
    with ebm(model=dataclasses.replace(MODEL, range=None)) as some:
        assert abs(some.sample(64)).max() > 1e9
    assert not caplog.messages


def test_of_a_composition_the_parts_ranges_count() -> None:
    narrow = dataclasses.replace(MODEL, range=(-1.0, 0.5))
    with compose([ebm(), ebm(model=narrow)]) as both:
        assert both.model.range == (-3.0, 3.0) and both.model.energies is None
        with pytest.raises(DivergenceError, match="run away"):
            both.sample(64, config=STEPS.replace(steps=15))
    with compose([ebm(), ebm(model=dataclasses.replace(MODEL, range=None))]) as both:
        assert both.model.range is None


def test_the_engine_is_asked_no_more_where_all_is_well() -> None:
    def calls(model: ModelSpec) -> int:
        asked = []

        def counted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            asked.append(len(x))
            return bowl(x)

        with ebm(counted, model) as some:
            some.sample(8)
        return len(asked)

    assert calls(BOWL) == calls(dataclasses.replace(BOWL, range=None))


def test_the_ranges_are_the_bundles(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_bundle(tmp_path / "old.ebm")
    caplog.set_level(logging.WARNING)
    with load(path, "onnxruntime", threads=1) as some:
        assert (some.model.range, some.model.energies) == ((-3.0, 3.0), None)
        with pytest.raises(DivergenceError, match=r"run away \(x from \S+ to \S+, where the export saw -3 to 3, and"):
            some.sample(4, step_size=3.0, steps=40)
