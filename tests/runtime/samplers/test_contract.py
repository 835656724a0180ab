"""What every sampler keeps to, whatever its formula."""

from __future__ import annotations

import copy
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, FunctionEngine, SamplerConfig
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.gradient_scale import ScaledScore
from ebm_export.runtime.method import build_method
from ebm_export.runtime.progress import Progress
from ebm_export.runtime.run import run_chains
from ebm_export.runtime.start import start_states

SAMPLERS: dict[str, dict[str, Any]] = {
    "langevin": {},
    "preconditioned": {},
    "underdamped": {},
    "mala": {},
    "hmc": {"leapfrog": 3},
    "tempering": {"ladder": (1, 3)},
    "optimize": {},
    "exact": {"block": 4},
}
"""Every sampler, with settings that its tests here take."""
REJECTING = ("mala", "hmc", "tempering", "exact")
every = pytest.mark.parametrize("name", SAMPLERS)


def bowl(x: np.ndarray, centre: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rows = x.reshape(len(x), -1) - centre
    return 0.5 * (rows**2).sum(axis=1), x - centre


def settings(name: str, **changes: Any) -> SamplerConfig:
    own = {} if name == "exact" else {"sampler": name}
    return SamplerConfig.from_dict({"steps": 24, "step_size": 0.1, **own, **SAMPLERS[name], **changes})


def run(
    name: str, config: SamplerConfig, n: int, *, energy: Any = bowl, shape: tuple[int, ...] = (3,), **more: Any
) -> np.ndarray:
    def start(chains: range) -> np.ndarray:
        return start_states(config, shape, chains, 0)

    exact = FunctionEngine(energy) if name == "exact" else None
    low = (lambda x, **cond: tuple(1.2 * part for part in energy(x, **cond))) if name == "exact" else energy
    return run_chains(FunctionEngine(low), config, more.pop("start", start), n, exact=exact, **more)


def test_every_sampler_is_here() -> None:
    known = set(get_args(get_type_hints(SamplerConfig)["sampler"]))
    assert set(SAMPLERS) == {*known, "exact"}


@every
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_shape_and_type(name: str, shape: tuple[int, ...]) -> None:
    samples = run(name, settings(name), 5, shape=shape)
    assert samples.shape == (5, *shape) and samples.dtype == np.float32


@every
def test_same_seed_same_samples_in_any_batch(name: str) -> None:
    everything = run(name, settings(name), 11)
    np.testing.assert_array_equal(run(name, settings(name), 11), everything)
    # A chain's arithmetic is the same in any batch, up to the rounding of sums in the gradient scale.
    for max_batch in (2, 5, 100):
        np.testing.assert_allclose(run(name, settings(name), 11, max_batch=max_batch), everything, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(name, settings(name), 3), everything[:3], rtol=1e-4, atol=1e-5)
    other = run(name, settings(name), 11, seed=1)
    if name == "optimize":
        np.testing.assert_array_equal(other, everything)  # the same start, and no noise
    else:
        assert (abs(other - everything).max(axis=1) > 0.01).all()


@every
def test_no_more_samples_than_asked_for_in_one_call(name: str) -> None:
    sizes = []

    def watched(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(x))
        return bowl(x)

    run(name, settings(name), 7, energy=watched, max_batch=4)
    assert max(sizes) == 4


@every
def test_conditions_follow_their_chains(name: str) -> None:
    centres = np.linspace(-50, 50, 7, dtype=np.float32).reshape(7, 1)

    def energy(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return bowl(x, centre)

    config = settings(name, steps=200, temperature=0.01)
    for given, expected in ((centres, centres), (centres[2:3], np.repeat(centres[2:3], 7, axis=0))):
        samples = run(name, config, 7, energy=energy, cond={"centre": given}, max_batch=4)
        assert (abs(samples - expected) < 1).all()  # ten standard deviations


@every
def test_callback_hears_of_the_start_and_of_every_step(name: str) -> None:
    heard: list[Progress] = []
    kept = []

    def callback(now: Progress) -> None:
        heard.append(now)
        kept.append(now.state.position.copy())

    adapts = name in (*REJECTING, "preconditioned")
    samples = run(name, settings(name, steps=6, **({"warmup": 1} if adapts else {})), 3, callback=callback)
    expected = [0, 1, 5, 6] if name == "exact" else list(range(7))
    assert [now.done for now in heard] == expected
    assert all(now.n == 3 and now.steps == 6 and now.chains == range(3) for now in heard)
    assert heard[0].info is None and heard[1].info is not None
    assert [now.warming_up for now in heard] == [adapts and done <= 1 for done in expected]
    for now in heard[1:]:
        assert now.state.position.shape == now.state.grad.shape == (3, 3) and now.state.energy.shape == (3,)
        assert now.grad_scale is not None and now.grad_scale.shape == (3,)
    np.testing.assert_array_equal(kept[-1], samples)


@every
def test_a_state_alone_says_how_its_chain_goes_on(name: str) -> None:
    """So that a copy of the state, with the gradient scale, can go on anywhere."""
    config = settings(name, warmup=8) if name in (*REJECTING, "preconditioned") else settings(name)
    start = np.full((5, 3), 2, np.float32)
    random = ChainRandom(3, range(5), (3,), None, len(config.ladder) if name == "tempering" else 1)

    def walk(renewed: bool) -> np.ndarray:
        def fresh() -> tuple[Any, ScaledScore]:
            energy = (lambda x: 1.3 * bowl(x)[0]) if name == "exact" else None
            return build_method(config, start, energy), ScaledScore(FunctionEngine(bowl), {})

        method, score = fresh()
        state = method.init(random, start, score)
        step = 0
        while step < config.steps:
            if renewed:
                state, scales = copy.deepcopy((state, score.state))
                method, score = fresh()
                score.state = scales
            state, _ = method.step(random.at(step), state, score, 0.1, step)
            step = step + 1 if method.end is None else method.end(step)
        return np.array(state.position)

    np.testing.assert_array_equal(walk(renewed=True), walk(renewed=False))


@pytest.mark.parametrize("name", REJECTING)
@pytest.mark.parametrize("resumed", [0, 11])
def test_the_state_that_a_step_starts_from_is_left_alone(name: str, resumed: int) -> None:
    """Though states live in arrays that are used again and again, until the step after the next."""

    def copied(state: Any) -> list[np.ndarray]:
        parts = [*state[:-1], *state.replicas] if name == "tempering" else state
        return [np.array(part) for part in parts]

    config = settings(name, warmup=8)
    start = np.full((5, 3), 2, np.float32)
    random = ChainRandom(3, range(5), (3,), None, len(config.ladder) if name == "tempering" else 1)
    energy = (lambda x: 1.3 * bowl(x)[0]) if name == "exact" else None
    method, score = build_method(config, start, energy), ScaledScore(FunctionEngine(bowl), {})
    state = method.init(random, start, score)
    step = resumed
    moved = False
    while step < config.steps:
        before = copied(state)
        new, _ = method.step(random.at(step), state, score, 0.1, step)
        for array, kept in zip(copied(state), before, strict=True):
            np.testing.assert_array_equal(array, kept)
        moved |= not np.array_equal(new.position, state.position)
        step = step + 1 if method.end is None else method.end(step)
        state = method.refresh(new, score) if step % 5 == 0 else new
    assert moved


@every
def test_the_given_start_is_left_alone(name: str) -> None:
    states = np.full((4, 3), 2, np.float32)
    run(name, settings(name, bounds=(-1, 1)), 4, start=lambda chains: states[chains.start : chains.stop])
    np.testing.assert_array_equal(states, np.full((4, 3), 2))


@every
@pytest.mark.parametrize("mode", ["project", "reflect"])
def test_every_state_stays_in_the_bounds(name: str, mode: str) -> None:
    ends = []
    config = settings(name, step_size=1.0, bounds=(-0.5, 0.25), bounds_mode=mode)
    run(
        name,
        config,
        50,
        callback=lambda now: ends.append((now.state.position.min(), now.state.position.max())),
    )
    assert min(low for low, _ in ends) >= -0.5 and max(high for _, high in ends) <= 0.25


@every
def test_what_is_not_free_stays(name: str) -> None:
    free = np.array([[1, 0, 1]], np.float32)
    start = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    for given in (free, np.repeat(free, 5, axis=0)):
        samples = run(
            name, settings(name), 5, free=given, start=lambda chains: start[chains.start : chains.stop], max_batch=4
        )
        np.testing.assert_array_equal(samples[:, 1], start[:, 1])
        assert (samples[:, [0, 2]] != start[:, [0, 2]]).all()


@every
def test_an_energy_that_stops_being_finite(name: str) -> None:
    """Beyond x = 1 the energy is NaN: rejected, or the end."""

    def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(x[:, 0] > 1, np.nan, -x[:, 0]), np.full_like(x, -1)

    config = settings(name, steps=100, step_size=0.3)

    def start(chains: range) -> np.ndarray:
        return np.zeros((len(chains), 1), np.float32)

    if name in REJECTING:
        samples = run(name, config, 20, energy=cliff, start=start)
        assert samples.max() <= 1 and abs(samples - 1).min() < 0.5
    else:
        with pytest.raises(DivergenceError, match=r"\d+ of 20 chains have .* not finite after step \d+; try a smaller"):
            run(name, config, 20, energy=cliff, start=start)


UNADJUSTED = [name for name in SAMPLERS if name not in REJECTING]


def slippery(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A bowl whose energy is NaN beyond x = 1.5."""
    energy, grad = bowl(x, 0.0)
    return np.where(x[:, 0] > 1.5, np.nan, energy), grad


@pytest.mark.parametrize("name", UNADJUSTED)
def test_diverged_chains_are_dropped_and_the_others_are_as_ever(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = settings(name, steps=30, bounds=(-3, 3))
    lost: list[np.ndarray] = []

    def callback(now: Progress) -> None:
        if now.done == now.steps:
            lost.append(np.zeros(len(now.chains), bool) if now.diverged is None else now.diverged)

    rest = run(name, config, 40, energy=slippery, diverged="drop", max_batch=16, callback=callback)
    gone = np.concatenate(lost)
    assert 0 < gone.sum() < 40 and len(rest) == 40 - gone.sum() and np.isfinite(rest).all()
    free = run(name, config, 40, energy=lambda x: bowl(x, 0.0))  # the same chains where nothing is NaN
    np.testing.assert_allclose(rest, free[~gone], rtol=1e-4, atol=1e-5)
    numbers = ", ".join(map(str, np.flatnonzero(gone)))
    assert caplog.messages == [f"{gone.sum()} of 40 chains diverged and were dropped: {numbers}"]


@pytest.mark.parametrize("name", UNADJUSTED)
def test_diverged_chains_are_started_anew(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = settings(name, steps=10, bounds=(-3, 3))

    def restart(chains: range, attempt: int) -> np.ndarray:
        assert attempt in (1, 2, 3)
        return np.full((len(chains), 3), -1, np.float32)

    whole = run(name, config, 40, energy=slippery, diverged="restart", restart=restart)
    assert len(whole) == 40 and whole[:, 0].max() <= 1.5
    assert caplog.messages and all("started anew (" in message for message in caplog.messages)
    split = run(name, config, 40, energy=slippery, diverged="restart", restart=restart, max_batch=7)
    np.testing.assert_allclose(split, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", UNADJUSTED)
@pytest.mark.parametrize("diverged", ["restart", "drop"])
def test_chains_that_always_diverge_are_an_error(name: str, diverged: str) -> None:
    who = {"restart": "^chain 0, started anew 3 times, has", "drop": "^3 of 3 chains have"}[diverged]
    with pytest.raises(DivergenceError, match=f"{who} an energy, gradient or position that is not finite"):
        run(name, settings(name), 3, energy=lambda x: (np.full(len(x), np.inf), x), diverged=diverged)


@every
def test_a_start_that_is_not_finite_is_the_end(name: str) -> None:
    with pytest.raises(DivergenceError, match="5 of 5 chains .* at the start"):
        run(name, settings(name), 5, energy=lambda x: (np.full(len(x), np.nan), x))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "exact"])  # which has one surrogate
def test_another_engine_takes_over(name: str) -> None:
    config = settings(name, steps=300, temperature=0.01)
    samples = run(name, config, 4, switches={20: FunctionEngine(lambda x: bowl(x, -20.0))})
    assert (abs(samples + 20) < 1).all()


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "exact"])
def test_an_engine_that_takes_over_where_its_energy_is_not_finite(name: str) -> None:
    nowhere = FunctionEngine(lambda x: (np.full(len(x), np.nan), x))
    for step in (2, 20):  # in the warm-up, where there is one, and after it
        with pytest.raises(DivergenceError, match=f"4 of 4 chains .* not finite after step {step}; try"):
            run(name, settings(name), 4, switches={step: nowhere})
