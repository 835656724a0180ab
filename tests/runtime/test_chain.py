"""The loop: batches, callbacks, bounds, schedules and divergence."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Engine, FunctionEngine, SamplerConfig
from ebm_export.runtime.best_after_drift import BestAfterDrift
from ebm_export.runtime.best_so_far import Best, Steps, until
from ebm_export.runtime.chain import chain_steps
from ebm_export.runtime.pace import Pace
from ebm_export.runtime.progress import Progress
from ebm_export.runtime.run import run_chains
from ebm_export.runtime.start import start_states

ORDERS = ["drift-noise", "noise-drift"]


def bowl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * (x * x).sum(axis=1), x


def ripple(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (0.5 * (x * x) + np.cos(2 * x)).sum(axis=1), x - 2 * np.sin(2 * x)


def run(config: SamplerConfig, n: int, **options: object) -> np.ndarray:
    with FunctionEngine(bowl) as engine:
        return run_chains(
            engine,
            config,
            lambda chains: start_states(config, (3,), chains, 0),
            n,
            **options,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("order", ORDERS)
def test_a_chain_does_not_depend_on_batches_or_on_how_many_there_are(order: str) -> None:
    config = SamplerConfig.from_dict({"steps": 30, "step_size": 0.1, "order": order})
    everything = run(config, 11)
    # A chain's arithmetic is the same in any batch, up to the rounding of sums in the gradient scale.
    for max_batch in (1, 4, 100):
        np.testing.assert_allclose(run(config, 11, max_batch=max_batch), everything, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(config, 3), everything[:3], rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(config, 11, seed=1), everything, atol=0.1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"order": "drift-noise", "grad_clip": 1.5},
            [
                [1.1793721914291382, 1.7737687826156616, 2.3611481189727783],
                [1.3269304037094116, 1.3478389978408813, -0.9811464548110962],
                [0.07368668913841248, 1.150658369064331, -1.3058949708938599],
            ],
        ),
        (
            {"order": "noise-drift", "bounds": (-1.5, 1.5), "noise": (0.3, 0.05)},
            [
                [1.1908255815505981, 1.2187570333480835, -1.0723932981491089],
                [1.2304104566574097, 1.2347157001495361, -1.1944916248321533],
                [-1.2682249546051025, 1.2299481630325317, 1.1995090246200562],
            ],
        ),
    ],
)
def test_samples_stay_those_of_earlier_versions(settings: dict[str, object], expected: list[list[float]]) -> None:
    config = SamplerConfig.from_dict({"steps": 40, "step_size": (0.1, 0.05), **settings})
    with FunctionEngine(ripple) as engine:
        samples = run_chains(
            engine, config, lambda chains: start_states(config, (3,), chains, 5), 500, seed=5, max_batch=70
        )
    # Equal to the bit where this was written; elsewhere a sine may be rounded otherwise.
    np.testing.assert_allclose(samples[[0, 1, 499]], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"sampler": "mala", "grad_clip": 1.5},
            [
                [1.0574547052383423, -1.3335429430007935, -0.38765814900398254],
                [-1.2822149991989136, -1.7570886611938477, -1.5097001791000366],
                [1.5542072057724, -0.8229689598083496, -1.0028517246246338],
            ],
        ),
        (
            {"sampler": "hmc", "leapfrog": 3, "bounds": (-1.3, 1.5)},
            [
                [-0.7464234828948975, -0.6137721538543701, -0.6187384128570557],
                [-0.6613849401473999, -1.193598985671997, 1.4065223932266235],
                [0.7511076927185059, -0.7505860328674316, -1.1191139221191406],
            ],
        ),
        (
            {"sampler": "tempering", "ladder": (1, 3)},
            [
                [-0.13858580589294434, 1.2563872337341309, -1.1928662061691284],
                [0.8942728042602539, -1.8174464702606201, -0.10241413116455078],
                [-0.4461280107498169, -1.090935230255127, 1.4128551483154297],
            ],
        ),
        (
            {"block": 4},
            [
                [1.7743337154388428, -1.2434433698654175, 1.1985180377960205],
                [-1.5085124969482422, -1.9679226875305176, -1.6064541339874268],
                [1.2972190380096436, -0.6941300630569458, -0.8940414190292358],
            ],
        ),
    ],
    ids=["mala", "hmc", "tempering", "exact"],
)
def test_samples_of_those_that_reject_stay_those_of_earlier_versions(
    settings: dict[str, object], expected: list[list[float]]
) -> None:
    # Few steps: ARM64 rounds in another way, and forty steps of HMC made 0.004 of it.
    config = SamplerConfig.from_dict({"steps": 16, "step_size": 0.3, "warmup": 6, **settings})
    exact = FunctionEngine(lambda x: (1.1 * ripple(x)[0], x)) if "block" in settings else None
    with FunctionEngine(ripple) as engine, exact or contextlib.nullcontext():
        samples = run_chains(
            engine, config, lambda chains: start_states(config, (3,), chains, 5), 90, seed=5, max_batch=70, exact=exact
        )
    np.testing.assert_allclose(samples[[0, 1, 89]], expected, rtol=1e-5)


def test_conditions_follow_their_chains_through_batches() -> None:
    centres = np.arange(14, dtype=np.float32).reshape(7, 2)

    def energy(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert centre.flags.c_contiguous and len(centre) == len(x)
        return 0.5 * ((x - centre) ** 2).sum(axis=1), x - centre

    config = SamplerConfig(steps=200, step_size=0.1, noise=0.0)

    def start(chains: range) -> np.ndarray:
        return start_states(config, (2,), chains, 0)

    with FunctionEngine(energy) as engine:
        own = run_chains(engine, config, start, 7, cond={"centre": centres}, max_batch=3)
        shared = run_chains(engine, config, start, 7, cond={"centre": centres[2:3]}, max_batch=3)
    np.testing.assert_allclose(own, centres, atol=1e-4)
    np.testing.assert_allclose(shared, np.repeat(centres[2:3], 7, axis=0), atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_every_state_stays_in_the_bounds(order: str) -> None:
    config = SamplerConfig.from_dict({"steps": 20, "step_size": 3.0, "bounds": (-0.5, 0.25), "order": order})
    extremes = []

    def look(now: Progress) -> None:
        extremes.append((now.state.position.min(), now.state.position.max()))

    run(config, 50, callback=look)
    assert min(low for low, _ in extremes) == -0.5 and max(high for _, high in extremes) == 0.25


@pytest.mark.parametrize("order", ORDERS)
def test_schedule_gives_each_step_its_own_size(order: str) -> None:
    config = SamplerConfig.from_dict({"steps": 3, "step_size": (0.5, 0.25, 0.0), "noise": 0.0, "order": order})
    start = start_states(config, (3,), range(4), 0)
    np.testing.assert_allclose(run(config, 4), start * 0.5 * 0.75, rtol=1e-5)


def test_noise_that_a_schedule_switches_off_is_off() -> None:
    config = SamplerConfig(steps=2, step_size=0.0, noise=(1.0, 0.0))
    seen = []
    run(config, 4, callback=lambda now: seen.append(now.state.position.copy()))
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[1], seen[2])


@pytest.mark.parametrize("order", ORDERS)
def test_callback_hears_of_the_start_and_of_every_step_of_every_batch(order: str) -> None:
    config = SamplerConfig.from_dict({"steps": 3, "step_size": 0.1, "order": order})
    heard: list[Progress] = []
    run(config, 5, max_batch=2, callback=heard.append)
    assert [(now.done, now.chains) for now in heard] == [
        (done, chains) for chains in (range(2), range(2, 4), range(4, 5)) for done in range(4)
    ]
    assert all(now.n == 5 and now.steps == 3 for now in heard)
    assert heard[0].info is None and heard[1].info is not None
    assert heard[0].grad_scale is not None and heard[1].grad_scale.shape == (2,)


def test_the_given_start_is_left_alone() -> None:
    states = np.ones((4, 3), np.float32)
    with FunctionEngine(bowl) as engine:
        run_chains(engine, SamplerConfig(steps=5, step_size=0.1), lambda chains: states[chains.start : chains.stop], 4)
    np.testing.assert_array_equal(states, np.ones((4, 3)))


@pytest.mark.parametrize("order", ORDERS)
def test_engine_calls_are_one_per_step_after_the_first(order: str) -> None:
    calls = []

    def counted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(x))
        return bowl(x)

    config = SamplerConfig.from_dict({"steps": 10, "step_size": 0.1, "order": order})
    with FunctionEngine(counted) as engine:
        run_chains(engine, config, lambda chains: start_states(config, (3,), chains, 0), 4)
    # Two to find the scale at the start, the second of which is the answer there, and one for each step.
    assert len(calls) == 12


class TestDivergence:
    def test_says_at_which_step_and_how_many_chains(self) -> None:
        def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.where(x[:, 0] > 2.5, np.nan, 0.0), np.full_like(x, -1)

        states = np.array([[0.0], [1.0], [0.9], [-9.0]], np.float32)
        config = SamplerConfig(steps=10, step_size=0.5, noise=0.0)
        with (
            FunctionEngine(cliff) as engine,
            pytest.raises(DivergenceError, match="^2 of 4 chains have .* not finite after step 4; try a smaller"),
        ):
            run_chains(engine, config, lambda chains: states, 4)

    def test_at_the_start(self) -> None:
        def broken(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros(len(x)), np.full_like(x, np.inf)

        with FunctionEngine(broken) as engine, pytest.raises(DivergenceError, match="3 of 3 chains .* at the start"):
            run_chains(engine, SamplerConfig(), lambda chains: np.zeros((3, 2), np.float32), 3)

    @pytest.mark.parametrize("order", ORDERS)
    def test_a_step_far_too_large_ends_without_a_warning(self, order: str) -> None:
        config = SamplerConfig.from_dict({"steps": 60, "step_size": 1e6, "order": order})
        with pytest.raises(DivergenceError, match="chains have an energy, gradient or position that is not finite"):
            run(config, 4)

    def test_an_overflow_of_the_very_last_drift(self) -> None:
        config = SamplerConfig(steps=1, step_size=1e39, noise=0.0, order="noise-drift")
        with pytest.raises(DivergenceError, match="4 of 4 chains .* after step 1"):
            run(config, 4)


class Still(Engine):
    """A bowl that allocates nothing: as backends do, it answers in arrays of its own, which the next call overwrites."""

    backend = "still"

    def __init__(self, shape: tuple[int, ...], *, hill: bool = False) -> None:
        self.sign = np.float32(-1 if hill else 1)  # down a hill, numbers leave their bounds at every step
        self.answer = {"energy": np.empty(shape[0], np.float32), "grad": np.empty(shape, np.float32)}

    def open(self) -> None: ...

    def close(self) -> None: ...

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = inputs["x"].reshape(len(inputs["x"]), -1)
        np.einsum("bd,bd->b", rows, rows, out=self.answer["energy"])
        scale = inputs["grad_scale"].reshape(-1, *[1] * (inputs["x"].ndim - 1))
        np.multiply(inputs["x"], scale, out=self.answer["grad"])
        for array in self.answer.values():
            array *= self.sign
        return self.answer


FEW = 1 / 16
"""Share of a batch's states that may be allocated: numpy's iterators take 25 kB for a broadcast of any size, and the loop a number or two
for each chain. A mask of the states would be a quarter of them."""


def traced(steps: Steps, peak: list[int]) -> Steps:
    """The same steps, of which six in the middle say what they allocated at most."""
    with contextlib.closing(steps):
        for now in steps:
            if now.done == 4:
                tracemalloc.start()
            if now.done == 10:
                peak.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
            yield now


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"grad_clip": 0.5},
        {"grad_clip": 5.0, "grad_clip_mode": "norm"},
        {"noise": 0.0},
        {"bounds_mode": "reflect"},
        *(
            {"sampler": sampler, "warmup": 0, "bounds": bounds, "bounds_mode": mode}
            for sampler in ("underdamped", "optimize", "preconditioned")
            for bounds, mode in ((None, "project"), ((-1, 1), "project"), ((-1, 1), "reflect"))
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_the_steady_loop_allocates_no_state(
    order: str, more: dict[str, Any], ahead: bool, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebm_export.runtime.chain_random.pays", lambda numbers, stride=1: ahead)
    x = np.random.default_rng(0).standard_normal((64, 3, 32, 32)).astype(np.float32)
    config = SamplerConfig.from_dict(
        {"steps": 12, "step_size": 0.01, "temperature": 0.1, "bounds": (-1, 1), "order": order, **more}
    )
    peak: list[int] = []
    with contextlib.closing(
        traced(chain_steps(Still(x.shape, hill=True), config, x, range(64), 64, shared=shared), peak)
    ) as steps:
        for _ in steps:
            pass
    assert peak[0] < FEW * x.nbytes


@pytest.mark.parametrize("name", ["mala", "hmc", "tempering", "exact"])
@pytest.mark.parametrize("more", [{}, {"grad_clip": 0.5, "bounds": (-1, 1)}, {"grad_clip_mode": "norm"}], ids=str)
@pytest.mark.parametrize("warmup", [0, 11])
@pytest.mark.parametrize("ahead", [True, False])
def test_the_steady_loop_of_those_that_reject_allocates_no_state(
    name: str, more: dict[str, Any], warmup: int, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebm_export.runtime.chain_random.pays", lambda numbers, stride=1: ahead)
    # numpy sums products of float32 in float64 through 100 kB of its own, whatever the size.
    x = np.random.default_rng(0).standard_normal((64, 3, 64, 64)).astype(np.float32)
    own: dict[str, dict[str, Any]] = {
        "mala": {"sampler": "mala"},
        "hmc": {"sampler": "hmc", "leapfrog": 2},
        "tempering": {"sampler": "tempering", "ladder": (1, 2)},
        "exact": {"block": 2},
    }
    config = SamplerConfig.from_dict(
        {"steps": 12, "step_size": 0.01, "grad_clip": 5.0, "warmup": warmup, **own[name], **more}
    )
    rows = len(x) * (2 if name == "tempering" else 1)
    exact = Still(x.shape) if name == "exact" else None
    peak: list[int] = []
    steps = chain_steps(Still((rows, *x.shape[1:])), config, x, range(64), 64, exact=exact)
    with contextlib.closing(traced(steps, peak)) as steps:
        for _ in steps:
            pass
    assert peak[0] < FEW * x.nbytes


@pytest.mark.parametrize(
    "more", [{}, {"bounds_mode": "reflect"}, {"sampler": "underdamped"}, {"order": "noise-drift"}], ids=str
)
@pytest.mark.parametrize("stream", [True, False])
def test_the_best_so_far_is_written_in_place(more: dict[str, Any], stream: bool) -> None:
    """Of chains whose best becomes better at every step."""
    x = np.full((64, 3, 32, 32), 0.5, np.float32)
    config = SamplerConfig.from_dict(
        {"steps": 12, "step_size": 0.05, "temperature": 1e-3, "bounds": (-1, 1), "warmup": 0, **more}
    )
    peak: list[int] = []
    steps = traced(chain_steps(Still(x.shape), config, x, range(64), 64, shared=stream, energies=True), peak)
    best = until(steps, Pace(math.inf), BestAfterDrift(()) if "order" in more else Best(()))
    assert best.complete and (best.energy < 400).all()  # of 768 at the start
    assert peak[0] < FEW * x.nbytes
