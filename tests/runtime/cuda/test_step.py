"""The kernels that move and measure against the sampler and the scale on the host, from the same noise."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.cuda.settings import Loop
from ebm_export.runtime.gradient_scale import next_scale
from ebm_export.runtime.known_scales import HIGHEST_SCALE
from ebm_export.runtime.samplers import langevin
from ebm_export.runtime.samplers.boundary import reflect
from ebm_export.runtime.samplers.clipping import clip_gradient

from .batch import SETTINGS, batch, mask, measured
from .emulator import FIRST, LAST, SHUFFLED, Emulator, Memory

NOISE, DRIFT = 1, 2


class TestLoop:
    def test_python_and_c_agree_on_every_field(self, emulator: Emulator) -> None:
        assert emulator.library.size_of_loop() == ctypes.sizeof(Loop)
        for name, *_ in Loop._fields_:
            assert emulator.library.offset_of(name.encode()) == getattr(Loop, name).offset, name

    @pytest.mark.parametrize(("size", "lanes"), [(1, 1), (8, 1), (9, 2), (784, 128), (3072, 256), (10**6, 256)])
    def test_lanes_are_a_power_of_two_that_a_row_keeps_busy(self, size: int, lanes: int) -> None:
        memory = Memory(SamplerConfig(), np.zeros((1, size), np.float32))
        assert memory.loop.lanes == lanes


class TestMove:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_a_step_is_the_samplers(
        self, emulator: Emulator, settings: dict[str, Any], order: str, masked: bool
    ) -> None:
        rows, size, step_size, sigma = 5, 130, 0.37, 0.83
        config = SamplerConfig.from_dict({"steps": 4, "order": order, **settings})
        arrays = batch(rows, size)
        if masked:
            arrays["free"] = mask(rows, size)
        free = arrays.get("free", np.float32(1))
        grad = arrays["grad"] / arrays["answer_scale"][:, None] * free
        memory = Memory(
            config,
            **arrays,
            scale=arrays["answer_scale"].copy(),
            step_size=np.full(4, step_size, np.float32),
            sigma=np.full(4, sigma, np.float32),
        )
        measured(emulator, memory)  # it works out how far to clip
        for parts in [NOISE | DRIFT] if order == "drift-noise" else [NOISE, DRIFT]:
            emulator.launch("move", 2, memory.address, 2, parts)  # two blocks: each thread takes more than one number

        kernel = langevin.build_kernel(
            config.order, config.grad_clip, config.grad_clip_mode, config.bounds, config.bounds_mode
        )
        state = langevin.State(arrays["position"], arrays["energy"], grad)
        expected, _ = kernel(arrays["noise"] * free, state, lambda x: (arrays["energy"], grad), step_size, sigma)
        if config.grad_clip_mode == "norm":  # the norm's sum is rounded in another order: a unit of the drift
            np.testing.assert_allclose(memory["position"], expected.position, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(memory["position"], expected.position)

    def test_a_schedule_is_read_at_the_step(self, emulator: Emulator) -> None:
        memory = Memory(
            SamplerConfig(steps=3),
            np.zeros((1, 2), np.float32),
            noise=np.ones((1, 2), np.float32),
            sigma=np.array([1, 2, 4], np.float32),
        )
        memory.loop.step = 1
        emulator.launch("move", 1, memory.address, 1, NOISE)
        np.testing.assert_array_equal(memory["position"], [[4, 4]])

    def test_nothing_moves_after_the_last_step_or_without_a_part(self, emulator: Emulator) -> None:
        config = SamplerConfig(steps=3, bounds=(-0.1, 0.1))  # the start may lie outside, and no step has confined it
        memory = Memory(config, **batch(2, 3))
        start = memory["position"].copy()
        emulator.launch("move", 1, memory.address, 3, NOISE | DRIFT)
        emulator.launch("move", 1, memory.address, 0, 0)
        np.testing.assert_array_equal(memory["position"], start)

    @pytest.mark.parametrize("clip", [None, 1.0])
    @pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
    def test_nan_stays_nan(self, emulator: Emulator, clip: float | None, bounds: tuple[float, float] | None) -> None:
        arrays = batch(1, 2)
        arrays["grad"][0, 0] = np.nan
        memory = Memory(SamplerConfig(steps=1, grad_clip=clip, bounds=bounds), **arrays)
        emulator.launch("move", 1, memory.address, 0, NOISE | DRIFT)
        np.testing.assert_array_equal(np.isnan(memory["position"]), [[True, False]])


def test_reflection_is_numpys(emulator: Emulator) -> None:
    confined = emulator.library.confined_to
    low, high = -0.3, 1.1
    numbers = np.concatenate(
        [np.random.default_rng(0).uniform(-9, 9, 500), [low, high, 1e6, -1e6, 3e38, np.inf, -np.inf, np.nan]]
    ).astype(np.float32)
    result = np.array(
        [confined(ctypes.c_float(x), 2, ctypes.c_double(low), ctypes.c_double(high)) for x in numbers], np.float32
    )
    with np.errstate(invalid="ignore"):
        reflect(numbers, (low, high))
    np.testing.assert_array_equal(result, numbers)


class TestMeasure:
    # One lane for a row, several rows in a block, one row in a block; a last block that is not full.
    @pytest.mark.parametrize(("rows", "size"), [(300, 3), (7, 50), (2, 3000)])
    @pytest.mark.parametrize("order", [FIRST, LAST, SHUFFLED])
    def test_the_scale_runs_as_on_the_host(self, emulator: Emulator, rows: int, size: int, order: int) -> None:
        emulator.order = order
        arrays = batch(rows, size)
        scale = arrays.pop("answer_scale")
        memory = Memory(SamplerConfig(), **arrays, scale=scale.copy())
        memory.loop.highest_scale = HIGHEST_SCALE
        measured(emulator, memory)
        # The host sums the squares in float32, here up to 3000 of them: 1e-6 of the sum, half of that of the scale.
        np.testing.assert_allclose(memory["scale"], next_scale(scale, arrays["grad"]), rtol=1e-6)
        np.testing.assert_array_equal(memory["answer_scale"], scale)
        assert (memory["lost"] == -1).all() and memory["lost_count"][0] == 0

    def test_the_scale_stops_at_the_highest(self, emulator: Emulator) -> None:
        arrays = batch(5, 4)
        scale = arrays.pop("answer_scale")
        memory = Memory(SamplerConfig(), **arrays, scale=scale.copy())
        expected = next_scale(scale, arrays["grad"])
        memory.loop.highest_scale = highest = float(np.median(expected))
        measured(emulator, memory)
        np.testing.assert_allclose(memory["scale"], np.minimum(expected, np.float32(highest)), rtol=1e-6)
        assert memory["scale"].min() < highest

    def test_the_scale_can_stay(self, emulator: Emulator) -> None:
        arrays = batch(3, 4)
        scale = arrays.pop("answer_scale")
        memory = Memory(SamplerConfig(), **arrays, scale=scale.copy())
        measured(emulator, memory)
        np.testing.assert_array_equal(memory["scale"], scale)

    @pytest.mark.parametrize(
        ("gradient", "scale"), [(0.0, 1.0), (np.nan, 3.0), (np.inf, 3.0), (1e38, 2.0**90), (1e-44, 2.0**99)]
    )
    def test_extreme_scales(self, emulator: Emulator, gradient: float, scale: float) -> None:
        arrays = batch(1, 4)
        arrays["grad"][:] = gradient
        memory = Memory(SamplerConfig(), **arrays, scale=np.array([scale], np.float32))
        memory.loop.highest_scale = HIGHEST_SCALE
        measured(emulator, memory)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = next_scale(np.array([scale], np.float32), arrays["grad"])
        np.testing.assert_allclose(memory["scale"], expected, rtol=1e-6)

    def test_the_norm_is_that_of_the_gradient_that_may_move(self, emulator: Emulator) -> None:
        arrays = batch(4, 20)
        free = np.zeros((4, 20), np.float32)
        free[:, :10] = 1
        memory = Memory(
            SamplerConfig(grad_clip=0.5, grad_clip_mode="norm"),
            **arrays,
            free=free,
            scale=arrays["answer_scale"].copy(),
        )
        measured(emulator, memory)
        grad = arrays["grad"] / arrays["answer_scale"][:, None] * free
        clipped, count = clip_gradient(grad, 0.5, "norm", np.empty_like(grad))
        assert count == 4
        np.testing.assert_allclose(grad * memory["factor"][:, None], clipped, rtol=1e-6)

    def test_a_norm_within_the_limit_is_left(self, emulator: Emulator) -> None:
        memory = Memory(SamplerConfig(grad_clip=1e6, grad_clip_mode="norm"), **batch(4, 20))
        measured(emulator, memory)
        np.testing.assert_array_equal(memory["factor"], 1)

    @pytest.mark.parametrize("size", [3, 3000])
    def test_what_is_not_finite_is_told_with_its_first_step(self, emulator: Emulator, size: int) -> None:
        arrays = batch(5, size)
        memory = Memory(SamplerConfig(), **arrays)
        memory.loop.step = 10
        memory["grad"][1, size - 1] = np.nan
        memory["grad"][2, 0] = 1e30  # its square is beyond float32, it is not
        memory["energy"][4] = -np.inf
        measured(emulator, memory, 3)
        np.testing.assert_array_equal(memory["lost"], [-1, 13, -1, -1, 13])
        memory["grad"][0, 1] = np.inf
        measured(emulator, memory, 4)
        np.testing.assert_array_equal(memory["lost"], [14, 13, -1, -1, 13])
        assert memory["lost_count"][0] == 3

    def test_a_gradient_that_overflows_when_its_scale_is_taken_away(self, emulator: Emulator) -> None:
        arrays = batch(1, 3)
        arrays["grad"][:] = 1e20
        memory = Memory(SamplerConfig(), **arrays, scale=np.array([2.0**-100], np.float32))
        measured(emulator, memory, 1)
        assert memory["lost"][0] == 1

    # As many lanes for a row as one, several and all; rows that share a block must not share an answer.
    @pytest.mark.parametrize(("rows", "size"), [(300, 3), (7, 50), (2, 3000)])
    @pytest.mark.parametrize("order", [FIRST, LAST, SHUFFLED])
    def test_the_best_position_is_kept(self, emulator: Emulator, rows: int, size: int, order: int) -> None:
        emulator.order = order
        arrays = batch(rows, size)
        before = np.full((rows, size), 7, np.float32)
        to_beat = np.zeros(rows, np.float32)
        arrays["energy"][0] = -1
        arrays["grad"][0, size - 1] = np.inf  # lost, whatever its energy
        arrays["energy"][1] = -2
        memory = Memory(SamplerConfig(), **arrays, best=before, best_energy=to_beat)
        measured(emulator, memory)
        better = arrays["energy"] < 0
        better[0] = False
        assert better.any()
        np.testing.assert_array_equal(memory["best"], np.where(better[:, None], arrays["position"], np.float32(7)))
        np.testing.assert_array_equal(memory["best_energy"], np.where(better, arrays["energy"], np.float32(0)))

    def test_an_energy_out_of_range(self, emulator: Emulator) -> None:
        arrays = batch(5, 3)
        arrays["energy"] = np.array([-2, -1, 0, 0.1, 0.2], np.float32)
        memory = Memory(SamplerConfig(), **arrays)
        memory.loop.lowest, memory.loop.highest = -1.0, 0.1  # compared in float32, as numpy does
        measured(emulator, memory, 7)
        np.testing.assert_array_equal(memory["lost"], [7, -1, -1, -1, 7])


def test_advance_counts_and_tells(emulator: Emulator) -> None:
    memory = Memory(SamplerConfig(), np.zeros((1, 1), np.float32), lost_count=np.array([2], np.int32))
    emulator.launch("advance", 1, memory.address, 16, threads=1)
    emulator.launch("advance", 1, memory.address, 3, threads=1)
    assert memory.loop.step == 19 and memory["told"][0] == 2
