"""The kernels that move the chains of other samplers than Langevin's against these samplers, from the same noise."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.cuda.loop import _SERIES, _moves, _settling
from ebm_export.runtime.fused_steps import ports, series_of
from ebm_export.runtime.method import build_method
from ebm_export.runtime.samplers import optimize, preconditioned, underdamped
from ebm_export.runtime.samplers.boundary import build_confine
from ebm_export.runtime.samplers.preconditioned import preconditioner
from ebm_export.runtime.schedule import spread

from .batch import SETTINGS, batch, mask, measured, settled
from .emulator import FIRST, LAST, SHUFFLED, Emulator, Memory

STATES: dict[str, Any] = {
    "optimize": optimize.State,
    "underdamped": underdamped.State,
    "preconditioned": preconditioned.State,
}

SAMPLERS: list[dict[str, Any]] = [
    {"sampler": "optimize", "momentum": 0.8, "step_size": (0.5, 0.1)},
    {"sampler": "optimize", "momentum": 0.0, "step_size": 0.4},
    {"sampler": "underdamped", "friction": 0.7, "step_size": (0.5, 0.1), "temperature": (1.0, 0.2)},
    {"sampler": "underdamped", "friction": 0.0, "step_size": 0.3},
    {"sampler": "underdamped", "step_size": 0.3, "temperature": 0.0},
    {"sampler": "underdamped", "step_size": 0.3, "noise": 0.2, "anneal": 4.0},
    {"sampler": "preconditioned", "warmup": 3, "step_size": (0.5, 0.1), "temperature": (1.0, 0.2)},
    {"sampler": "preconditioned", "warmup": 1, "step_size": 0.3, "temperature": 0.0},
    {"sampler": "preconditioned", "warmup": 0, "step_size": 0.3, "noise": 0.2, "anneal": 4.0},
]

CHAINS = (5, 130)  # rows, and numbers in one


class Drawn:
    """The random numbers of a step, as `ChainRandom` gives them."""

    def __init__(self, noise: np.ndarray) -> None:
        self._noise = noise

    def normal(self, out: np.ndarray) -> np.ndarray:
        out[:] = self._noise
        return out


class Step:
    """One step's arrays, for the kernels and for the sampler on the host.

    Args:
        settings: of the sampler.
        step: its number, of 4.
        masked: whether some numbers stay.
        position: [B, D] float32; None picks them.
    """

    def __init__(
        self, settings: dict[str, Any], step: int = 2, *, masked: bool = False, position: np.ndarray | None = None
    ) -> None:
        rng = np.random.default_rng(2)
        self.config = SamplerConfig.from_dict({"steps": 4, **settings})
        self.step = step
        self.arrays = batch(*CHAINS)
        if position is not None:
            self.arrays["position"] = position
        if masked:
            self.arrays["free"] = mask(*CHAINS)
        self.free = self.arrays.get("free", np.float32(1))
        self.answer = batch(*CHAINS, seed=3)["grad"]  # of the evaluation in the step
        self.carried: dict[str, np.ndarray] = {}
        if "velocity" in STATES[self.config.sampler]._fields:
            self.carried["velocity"] = (rng.standard_normal(CHAINS) * self.free).astype(np.float32)
        if "squares" in STATES[self.config.sampler]._fields:
            self.carried["squares"] = rng.exponential(size=CHAINS) * self.free
            self.carried["precondition"] = rng.exponential(size=CHAINS).astype(np.float32)

    def on_device(self, emulator: Emulator) -> Memory:
        """What the kernels make of it."""
        numbers = series_of(self.config, ports(self.config.sampler, "drift-noise").series)
        memory = Memory(
            self.config,
            **{name: array.copy() for name, array in (self.arrays | self.carried).items()},
            **{_SERIES.get(name, name): array for name, array in numbers.items()},
            scale=self.arrays["answer_scale"].copy(),
        )
        moves = _moves(self.config)
        measured(emulator, memory)  # it works out how far to clip
        if self.step == _settling(self.config):
            settled(emulator, memory)
        # In two blocks: each thread takes more than one number.
        emulator.launch(moves.before[0], 2, memory.address, self.step, *moves.before[1:])
        if moves.after is not None:
            memory["grad"][:] = self.answer
            measured(emulator, memory)
            emulator.launch(moves.after[0], 2, memory.address, self.step, *moves.after[1:])
        return memory

    def on_host(self) -> Any:
        """The sampler's state after the step."""
        scale = self.arrays["answer_scale"][:, None]
        grads = [answer / scale * self.free for answer in (self.arrays["grad"], self.answer)]
        energy = self.arrays["energy"]
        state = STATES[self.config.sampler](self.arrays["position"], energy, grads[0], **self.carried)
        method = build_method(self.config, self.arrays["position"], free=self.arrays.get("free"))
        noise: Any = Drawn(self.arrays["noise"] * self.free)
        step_size = spread(self.config.step_size, self.config.steps).item(self.step)
        return method.step(noise, state, lambda x: (energy, grads[1]), step_size, self.step)[0]


def same(memory: Memory, state: Any, *, exactly: bool = True) -> None:
    """Compares positions, and what else the state has."""
    for name in set(state._fields) - {"energy", "grad"}:
        if exactly:
            np.testing.assert_array_equal(memory[name], getattr(state, name), err_msg=name)
        else:
            np.testing.assert_allclose(memory[name], getattr(state, name), rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
class TestStep:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    @pytest.mark.parametrize("masked", [False, True])
    def test_it_is_the_samplers(
        self, emulator: Emulator, sampler: dict[str, Any], settings: dict[str, Any], masked: bool
    ) -> None:
        step = Step({**settings, **sampler}, masked=masked)
        # The norm's sum is rounded in another order: a unit of the drift.
        same(step.on_device(emulator), step.on_host(), exactly=step.config.grad_clip_mode == "value")

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_schedules_are_read_at_the_step(self, emulator: Emulator, sampler: dict[str, Any], number: int) -> None:
        step = Step(sampler, number)
        same(step.on_device(emulator), step.on_host())

    def test_nothing_changes_after_the_last_step(self, emulator: Emulator, sampler: dict[str, Any]) -> None:
        # The start may lie outside of the bounds, and no step has confined it.
        step = Step({**sampler, "bounds": (-0.1, 0.1)}, 4)
        memory = step.on_device(emulator)
        np.testing.assert_array_equal(memory["position"], step.arrays["position"])
        for name, array in step.carried.items():
            np.testing.assert_array_equal(memory[name], array)

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_nan_stays_nan(self, emulator: Emulator, sampler: dict[str, Any], settings: dict[str, Any]) -> None:
        position = batch(*CHAINS)["position"]
        position[1, 7] = np.nan
        step = Step({**settings, **sampler}, position=position)
        memory = step.on_device(emulator)
        np.testing.assert_array_equal(np.isnan(memory["position"]), np.isnan(position))


class TestSettle:
    # One lane for a row, several rows in a block, one row in a block; a last block that is not full.
    @pytest.mark.parametrize(("rows", "size"), [(300, 3), (7, 50), (2, 3000)])
    @pytest.mark.parametrize("order", [FIRST, LAST, SHUFFLED])
    @pytest.mark.parametrize("masked", [False, True])
    def test_factors_are_the_hosts(self, emulator: Emulator, rows: int, size: int, order: int, masked: bool) -> None:
        emulator.order = order
        free = mask(rows, size) if masked else np.ones((rows, size), np.float32)
        free[0] = 0 if masked else 1
        squares = np.exp(np.random.default_rng(0).normal(size=(rows, size), scale=4)) * free
        squares[1] = 0  # nothing was learned
        arrays = {"squares": squares, "precondition": np.full((rows, size), 7, np.float32)}
        memory = Memory(
            SamplerConfig(sampler="preconditioned"),
            np.zeros((rows, size), np.float32),
            **arrays,
            **({"free": free} if masked else {}),
        )
        settled(emulator, memory)
        moves = free.any(axis=1)
        expected = np.ones((rows, size), np.float32)
        expected[moves] = preconditioner(squares[moves], free[moves] if masked else None)
        # Sums in float64, in another order: float32 may round a few of them otherwise.
        np.testing.assert_array_max_ulp(memory["precondition"], expected, maxulp=1)


@pytest.mark.parametrize("mode", ["project", "reflect"])
def test_a_bound_stops_or_turns_a_velocity_as_on_the_host(emulator: Emulator, mode: Any) -> None:
    low, high = -0.3, 1.1
    position = np.concatenate(
        [np.random.default_rng(0).uniform(-9, 9, 500), [low, high, 1e6, -1e6, 3e38, np.inf, -np.inf, np.nan]]
    ).astype(np.float32)
    velocity = np.random.default_rng(1).standard_normal(len(position)).astype(np.float32)
    result = [(ctypes.c_float(x), ctypes.c_float(v)) for x, v in zip(position, velocity, strict=True)]
    bounds = {"project": 1, "reflect": 2}[mode]
    for value, speed in result:
        emulator.library.bounce_at(
            ctypes.byref(value), ctypes.byref(speed), bounds, ctypes.c_double(low), ctypes.c_double(high)
        )
    before = velocity.copy()
    with np.errstate(invalid="ignore"):
        build_confine((low, high), mode)(position, velocity)
    np.testing.assert_array_equal(np.array([(x.value, v.value) for x, v in result], np.float32).T, [position, velocity])
    assert (velocity == (0 if mode == "project" else -before)).sum() > 100
