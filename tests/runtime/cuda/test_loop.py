"""The loop on the GPU gives what the loop on the host gives.

The kernels are those of kernels.cu, the calls those of `TensorRtEngine` and `CudaLoop`; the GPU, CUDA's runtime and the
plan are stand-ins that run on the host. What this cannot show is that a GPU and TensorRT do as they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime.backends import tensorrt
from ebm_export.runtime.best_so_far import BestSoFar
from ebm_export.runtime.cuda import kernels
from ebm_export.runtime.cuda.kernels import Kernels, load_kernels
from ebm_export.runtime.cuda.loop import GRAPH_STEPS
from ebm_export.runtime.errors import EbmExportError, MissingBackend
from ebm_export.runtime.fused_steps import Fused
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.noise import CHAINS
from ebm_export.runtime.progress import ProgressOnly
from ebm_export.runtime.run import run_chains

from .bench import SHAPE, Bench, Open, around, cliff, ignored, pushed, ripple
from .emulator import SHUFFLED, Emulator
from .stand_in import Driver, Gpu


def close(device: np.ndarray, host: np.ndarray) -> None:
    # The noise has the same bits. The running scale is 1e-7 off, the gradient after dividing by it as well, and the
    # energy here neither contracts nor expands by more than 3 a step of 0.1; what is looked for is far larger.
    np.testing.assert_allclose(device, host, rtol=1e-4, atol=1e-4)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"grad_clip": 0.8},
    {"grad_clip": 2.0, "grad_clip_mode": "norm"},
    {"bounds": (-0.7, 0.9), "init": "uniform"},
    {"bounds": (-1.0, 1.0), "bounds_mode": "reflect"},
    {"step_size": (0.1, 0.01), "noise": (0.3, 0.0)},
    {"temperature": 0.0},
    {"anneal": 5.0},
]


MOVING: list[dict[str, Any]] = [
    {},
    {"grad_clip": 0.8},
    {"grad_clip": 2.0, "grad_clip_mode": "norm"},
    {"bounds": (-0.7, 0.9), "init": "uniform"},
    {"bounds": (-1.0, 1.0), "bounds_mode": "reflect"},
]
"""Settings of all samplers."""

SAMPLERS: list[dict[str, Any]] = [
    {"sampler": "optimize"},
    {"sampler": "optimize", "momentum": 0.5, "step_size": (0.05, 0.0)},
    {"sampler": "underdamped"},
    {"sampler": "underdamped", "friction": 0.1, "step_size": (0.02, 0.005), "temperature": (1.0, 0.0)},
    {"sampler": "preconditioned", "warmup": 0},
    {"sampler": "preconditioned", "step_size": (0.02, 0.005), "temperature": (1.0, 0.0)},
]

WORK: list[tuple[dict[str, Any], list[str]]] = [
    ({"sampler": "optimize"}, ["descend", "engine", "measure"]),
    ({"sampler": "underdamped"}, ["glide", "engine", "measure", "kick"]),
    ({"sampler": "preconditioned", "warmup": GRAPH_STEPS}, ["stride", "engine", "measure"]),
]
"""A step's kernels, without noise."""


class TestSameSamples:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    def test_settings(self, opened: Open, settings: dict[str, Any], order: str) -> None:
        config = SamplerConfig.from_dict({"steps": 37, "step_size": 0.1, "order": order, **settings})
        with opened(config=config) as bench:
            close(*bench.both(7, seed=3))

    @pytest.mark.parametrize("side_first", [False, True])
    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    def test_whichever_stream_is_faster(self, opened: Open, emulator: Emulator, side_first: bool, order: str) -> None:
        emulator.order = SHUFFLED
        config = SamplerConfig.from_dict({"steps": 37, "step_size": 0.1, "order": order})
        with opened(config=config, side_first=side_first) as bench:
            close(*bench.both(7, seed=4))

    @pytest.mark.parametrize("steps", [1, 2, GRAPH_STEPS, GRAPH_STEPS + 1, 2 * GRAPH_STEPS])
    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    def test_any_number_of_steps(self, opened: Open, steps: int, order: str) -> None:
        config = SamplerConfig.from_dict({"steps": steps, "step_size": 0.1, "order": order})
        with opened(config=config) as bench:
            if (steps, order) == (1, "noise-drift"):  # its only step is taken on the host
                bench.ebm.sample(4)
                assert "move" not in bench.gpu.launched
            else:
                close(*bench.both(4))

    def test_batches_that_begin_within_a_block_of_noise(self, opened: Open) -> None:
        with opened(config=SamplerConfig(steps=20, step_size=0.1)) as bench:
            close(*bench.both(11, max_batch=4))

    @pytest.mark.parametrize("settings", [{}, {"order": "noise-drift"}, {"sampler": "underdamped"}], ids=str)
    def test_fewer_chains_than_the_plan_takes(self, opened: Open, settings: dict[str, Any]) -> None:
        config = SamplerConfig.from_dict({"steps": 20, "step_size": 0.02, **settings})
        with opened(around, config, smallest=4, largest=8) as bench:
            centre = np.random.default_rng(0).standard_normal((11, *SHAPE))
            device, host = bench.both(11, centre=centre, max_batch=8)
            close(device, host)
            for n in (1, 3, 1):
                close(bench.both(n, centre=centre[:n])[0], device[:n])

    def test_chains_that_run_again_may_be_fewer_than_the_plan_takes(self, opened: Open) -> None:
        with opened(cliff, SamplerConfig(steps=20, step_size=0.1, noise=0.3), smallest=8) as bench:
            close(*bench.both(9, seed=6, diverged="restart"))

    @pytest.mark.parametrize("first", [4096, 4097, CHAINS - 6])
    def test_chains_of_a_later_part(self, opened: Open, first: int) -> None:
        with opened(config=SamplerConfig(steps=20, step_size=0.1)) as bench:
            device, host = bench.both(5, max_batch=3, first=first)
            close(device, host)
            close(bench.both(1, first=first + 4)[0], device[4:])

    def test_conditions_are_sent_once_for_each_chain(self, opened: Open) -> None:
        size = f"to device {4 * 15 * 4}"  # of x, and of the condition
        with opened(around, SamplerConfig(steps=8, step_size=0.1)) as bench:
            for centre in (np.zeros((4, *SHAPE)), np.ones((1, *SHAPE))):
                bench.gpu.log.clear()
                moved = bench.ebm.sample(4, centre=centre, callback=ignored)
                # x at two evaluations that find the scale and one after each step, and the condition.
                assert bench.gpu.log.count(size) == 2 + 8 + 1
                close(moved, bench.ebm.sample(4, centre=centre))

    def test_a_plan_that_cannot_be_captured(self, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
        for options, reason in (
            ({"capturable": False}, "TensorRT says that it cannot be captured"),
            ({"refuses_capture": True}, "TensorRT could not run score.plan"),
            ({"fails": "cudaStreamEndCapture"}, "cudaStreamEndCapture failed: error 901 in words"),
        ):
            caplog.clear()
            with opened(config=SamplerConfig(steps=20, step_size=0.1), **options) as bench:
                close(*bench.both(4))
                close(*bench.both(4, seed=1))
                assert "graph" not in bench.gpu.log
            messages = [record.getMessage() for record in caplog.records]
            assert messages == [f"steps go to the GPU one by one and not as a CUDA graph: {reason}"]


class TestOtherSamplers:
    """What is said of Langevin above and below, as far as it can differ."""

    @pytest.mark.parametrize("settings", MOVING, ids=str)
    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_settings(self, opened: Open, settings: dict[str, Any], sampler: dict[str, Any]) -> None:
        config = SamplerConfig.from_dict({"steps": 37, "step_size": 0.02, **settings, **sampler})
        with opened(config=config) as bench:
            close(*bench.both(7, seed=3))

    @pytest.mark.parametrize("side_first", [False, True])
    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_whichever_stream_is_faster(
        self, opened: Open, emulator: Emulator, side_first: bool, sampler: dict[str, Any]
    ) -> None:
        emulator.order = SHUFFLED
        config = SamplerConfig.from_dict({"steps": 37, "step_size": 0.02, **sampler})
        with opened(config=config, side_first=side_first) as bench:
            close(*bench.both(7, seed=4))

    @pytest.mark.parametrize("steps", [1, 2, GRAPH_STEPS, GRAPH_STEPS + 1, 2 * GRAPH_STEPS])
    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_any_number_of_steps(self, opened: Open, steps: int, sampler: dict[str, Any]) -> None:
        config = SamplerConfig.from_dict({"steps": steps, "step_size": 0.02, **sampler})
        with opened(config=config) as bench:
            close(*bench.both(4))

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_batches_and_chains_of_a_later_part(self, opened: Open, sampler: dict[str, Any]) -> None:
        config = SamplerConfig.from_dict({"steps": 20, "step_size": 0.02, **sampler})
        with opened(config=config) as bench:
            device, host = bench.both(5, max_batch=3, first=4097)
            close(device, host)
            close(bench.both(1, first=4101)[0], device[4:])

    @pytest.mark.parametrize("sampler", [{}, *SAMPLERS], ids=str)
    def test_conditions_and_numbers_that_stay(self, opened: Open, sampler: dict[str, Any]) -> None:
        rng = np.random.default_rng(0)
        with opened(around, SamplerConfig.from_dict({"steps": 20, "step_size": 0.1, **sampler})) as bench:
            keep = rng.uniform(size=(1, *SHAPE)) < 0.5
            known = rng.standard_normal((1, *SHAPE)).astype(np.float32)
            centre = 5 * rng.standard_normal((6, *SHAPE)).astype(np.float32)
            device, host = bench.both(6, keep=keep, known=known, centre=centre, max_batch=4)
            close(device, host)
            np.testing.assert_array_equal(device[:, keep[0]], np.broadcast_to(known[:, keep[0]], (6, keep.sum())))

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_a_plan_that_cannot_be_captured(self, opened: Open, sampler: dict[str, Any]) -> None:
        config = SamplerConfig.from_dict({"steps": 20, "step_size": 0.02, **sampler})
        with opened(config=config, refuses_capture=True) as bench:
            close(*bench.both(4))
            assert "graph" not in bench.gpu.log

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_langevins_order_is_nothing_to_them(self, opened: Open, sampler: dict[str, Any]) -> None:
        config = SamplerConfig.from_dict({"steps": 20, "step_size": 0.02, "order": "noise-drift", **sampler})
        with opened(config=config) as bench:
            device, host = bench.both(4)
            close(device, host)
            other = Ebm(bench.ebm.engine, bench.ebm.model, config.replace(order="drift-noise"))
            np.testing.assert_array_equal(device, other.sample(4))

    @pytest.mark.parametrize(("sampler", "work"), WORK, ids=str)
    def test_one_capture_the_kernels_and_no_copy_before_the_end(
        self, opened: Open, sampler: dict[str, Any], work: list[str]
    ) -> None:
        config = SamplerConfig.from_dict({"steps": 3 * GRAPH_STEPS, "step_size": 0.02, **sampler})
        with opened(config=config) as bench:
            bench.both(4)
            log = bench.gpu.log[bench.gpu.log.index("instantiate") + 1 :]
            assert [name for name in log if "wait" not in name] == [
                *["graph"] * 3,
                *(f"to host {4 * 15 * 4}", f"to host {4 * 4}", "synchronize"),
            ]
            step = len(work)
            assert [name for name in bench.gpu.launched if name != "draw"][-step - 1 :] == [*work, "advance"]
            assert bench.gpu.launched.count("draw") == (0 if sampler["sampler"] == "optimize" else 1 + config.steps)

    @pytest.mark.parametrize(
        ("steps", "warmup", "graphs"), [(16, 4, 1), (40, 30, 4), (64, 32, 4), (2, 1, 2), (40, 39, 3)]
    )
    def test_a_warm_up_goes_by_graphs_too(self, opened: Open, steps: int, warmup: int, graphs: int) -> None:
        config = SamplerConfig(sampler="preconditioned", steps=steps, warmup=warmup, step_size=0.02)
        with opened(config=config) as bench:
            close(*bench.both(4))
            assert bench.gpu.log.count("graph") == graphs
            assert bench.gpu.launched.count("stride") == 1 + steps and bench.gpu.launched.count("settle") == 1

    def test_their_graphs_are_kept_apart(self, opened: Open) -> None:
        with opened(config=SamplerConfig(steps=GRAPH_STEPS, step_size=0.02)) as bench:
            captured = []
            for sampler in [{"sampler": "langevin"}, *SAMPLERS] * 2:
                close(*bench.both(4, **sampler))
                captured += [sampler["sampler"]] * bench.gpu.log.count("begin capture")
                assert "graph" in bench.gpu.log
            # A preconditioned chain's graph is as long as what follows its warm-up, where that is short.
            assert captured == ["langevin", "optimize", "underdamped", "preconditioned", "preconditioned"]

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_the_best_by_a_deadline_is_the_hosts(self, opened: Open, sampler: dict[str, Any]) -> None:
        config = SamplerConfig.from_dict({"steps": 25, "step_size": 0.02, "order": "noise-drift", **sampler})
        with opened(config=config) as bench:
            bench.ebm.warm(7)
            bench.gpu.log.clear()
            device, host = TestDeadline.both(bench, 7, seed=3)
            assert "graph" in bench.gpu.log and not {"cudaMalloc", "begin capture"} & set(bench.gpu.log)
            close(device.x, host.x)
            close(device.energy, host.energy)
            assert (device.steps, device.complete) == (host.steps, host.complete) == (25, True)

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_chains_that_diverge(self, opened: Open, sampler: dict[str, Any]) -> None:
        rng = np.random.default_rng(0)
        start = 0.1 * rng.standard_normal((9, *SHAPE))
        start[::2, 0, 0] = rng.uniform(1.5, 1.9, 5)  # these may come over the cliff, which is at 2
        config = SamplerConfig.from_dict({"steps": 2 * GRAPH_STEPS, "step_size": 0.02, **sampler})
        with opened(pushed, config) as bench:
            messages = []
            for keywords in ({}, {"callback": ignored}):
                with pytest.raises(DivergenceError) as error:
                    bench.ebm.refine(start, **keywords)
                messages.append(str(error.value))
            assert messages[0] == messages[1] and "after step" in messages[0]
            left = [bench.ebm.refine(start, diverged="drop", **keywords) for keywords in ({}, {"callback": ignored})]
            assert 0 < len(left[0]) < 9
            close(*left)


class TestWhatTheHostDoes:
    def test_one_capture_then_replays_and_no_copy_before_the_end(self, opened: Open) -> None:
        with opened(config=SamplerConfig(steps=5 * GRAPH_STEPS + 3, step_size=0.1), capturable=True) as bench:
            bench.both(4)
            log = bench.gpu.log
            begin, end = log.index("begin capture"), log.index("instantiate")
            assert log[begin : end + 1] == ["begin capture", "end capture", "instantiate"]
            inside = log[end + 1 :]
            numbers, flags = 4 * 15 * 4, 4 * 4  # bytes of the positions and of the chains' last word
            assert inside == [
                *["graph"] * 2,
                *["wait for event", "graph"] * 3,
                f"to host {numbers}",
                f"to host {flags}",
                "synchronize",
            ]
            assert log.count("begin capture") == 1

    def test_the_order_of_kernels(self, opened: Open) -> None:
        with opened(config=SamplerConfig(steps=2, step_size=0.1)) as bench:
            bench.both(4)
            work = [name for name in bench.gpu.launched if name != "draw"]
            # Two evaluations on the host find the scale; `move` and `advance` run empty before the capture.
            assert work == [
                *["engine"] * 2,
                "measure",
                "move",
                "advance",
                *["move", "engine", "measure"] * 2,
                "advance",
            ]
            assert bench.gpu.launched.count("draw") == 3

    def test_a_graph_serves_other_seeds_settings_and_starts(self, opened: Open) -> None:
        with opened(config=SamplerConfig(steps=GRAPH_STEPS, step_size=0.1)) as bench:
            close(*bench.both(4))
            for keywords in (
                {"seed": 9},
                {"steps": 3 * GRAPH_STEPS, "step_size": 0.05},
                {"bounds": (-1, 1), "grad_clip": 0.5},
                {"x0": np.ones((4, *SHAPE))},
                {"keep": np.eye(3, 5, dtype=bool)[None], "known": np.zeros((1, *SHAPE))},
            ):
                close(*bench.both(4, **keywords))
                assert "begin capture" not in bench.gpu.log and "graph" in bench.gpu.log
            for n, keywords in ((5, {}), (5, {"order": "noise-drift"}), (5, {"steps": 3})):
                close(*bench.both(n, **keywords))
                assert bench.gpu.log.count("begin capture") == 1

    def test_a_graph_does_not_outlive_the_shapes_it_was_captured_at(self, opened: Open) -> None:
        with opened(config=SamplerConfig(steps=GRAPH_STEPS, step_size=0.1)) as bench:
            close(*bench.both(4))
            bench.ebm.score(np.zeros((6, *SHAPE)))
            close(*bench.both(4))
            assert bench.gpu.log.count("begin capture") == 1

    def test_memory_is_kept(self, opened: Open) -> None:
        with opened(config=SamplerConfig(steps=GRAPH_STEPS, step_size=0.1)) as bench:
            bench.both(6)
            assert bench.gpu.log.count("cudaMalloc") > 5
            for n in (6, 4, 6):
                bench.both(n)
                assert "cudaMalloc" not in bench.gpu.log

    @pytest.mark.parametrize(
        ("keywords", "why"),
        [
            ({"sampler": "mala"}, 'the sampler "mala" accepts and rejects, which the loop there does not'),
            ({"sampler": "hmc"}, 'the sampler "hmc" accepts and rejects, which the loop there does not'),
            (
                {"sampler": "mala", "deadline_ms": 1e4},
                'the sampler "mala" accepts and rejects, which the loop there does not',
            ),
            (
                {"order": "noise-drift", "deadline_ms": 1e4},
                'a deadline asks for energies that the order "noise-drift" does not keep there',
            ),
            ({"callback": ignored}, ""),
        ],
        ids=["mala", "hmc", "deadline", "noise-drift by a deadline", "callback"],
    )
    def test_what_the_host_keeps_is_said_once(
        self, opened: Open, keywords: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        keywords = {
            name: tmp_path / value if name in ("out", "checkpoint") else value for name, value in keywords.items()
        }
        with opened(config=SamplerConfig(steps=8, step_size=0.1)) as bench:
            for seed in range(1 if "checkpoint" in keywords else 2):
                bench.ebm.sample(3, seed=seed, **keywords)
            assert set(bench.gpu.launched) == {"engine"}
        # A callback is promised every step, so there is nothing to be told.
        expected = [f"each step of a chain goes through the host, which costs two copies: {why}"] if why else []
        assert [record.getMessage() for record in caplog.records] == expected

    def test_a_stream_is_the_hosts(self, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
        with opened(config=SamplerConfig(steps=3, step_size=0.1)) as bench:
            assert list(bench.ebm.stream(3))[-1].complete
            assert set(bench.gpu.launched) == {"engine"}
        assert "stream() looks at the states of every step" in caplog.text

    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    def test_fused_steps_are_left_alone(self, opened: Open, order: str) -> None:
        config = SamplerConfig.from_dict({"steps": 6, "step_size": 0.1, "order": order})

        def never(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            raise AssertionError("its answer would not be in the memory that the loop on the GPU goes on from")

        with opened(config=config) as bench:
            bench.ebm.engine.needs_scale = False  # else the first step is not a fused one
            fused = Fused(FunctionEngine(never), 2, config)
            fused.open()
            start = np.ones((3, *SHAPE), np.float32)
            device = run_chains(bench.ebm.engine, config, lambda chains: start, 3, fused=fused)
            assert "move" in bench.gpu.launched
            close(device, run_chains(bench.ebm.engine, config, lambda chains: start, 3, callback=ignored))


class TestStatesOnTheWay:
    @staticmethod
    def both(bench: Bench, folder: Path, n: int, every: int, **keywords: Any) -> tuple[np.ndarray, np.ndarray]:
        """The files of the loop on the GPU and of that on the host."""
        device, host = folder / "device.npy", folder / "host.npy"
        close(
            bench.ebm.sample(n, every=every, out=device, **keywords),
            bench.ebm.sample(n, every=every, out=host, callback=ignored, **keywords),
        )
        assert "measure" in bench.gpu.launched
        return np.load(device), np.load(host)

    @pytest.mark.parametrize("every", [1, 5, GRAPH_STEPS, 20, 37])
    @pytest.mark.parametrize(
        "settings",
        [{}, {"order": "noise-drift"}, {"sampler": "underdamped"}, {"sampler": "preconditioned"}],
        ids=str,
    )
    def test_they_are_the_hosts(self, opened: Open, tmp_path: Path, settings: dict[str, Any], every: int) -> None:
        config = SamplerConfig.from_dict({"steps": 37, "step_size": 0.02, **settings})
        with opened(config=config) as bench:
            device, host = self.both(bench, tmp_path, 5, every, max_batch=3)
            assert len(host) == 37 // every and np.isfinite(host).all()
            close(device, host)

    def test_only_they_are_copied(self, opened: Open, tmp_path: Path) -> None:
        with opened(config=SamplerConfig(steps=50, step_size=0.02)) as bench:
            bench.ebm.sample(4, every=10, out=tmp_path / "states.npy")
            log = bench.gpu.log[bench.gpu.log.index("instantiate") + 1 :]
            state, words = f"to host {4 * 15 * 4}", f"to host {4 * 4}"
            assert [name for name in log if name != "wait for event"] == [
                *["graph", state, "synchronize"] * 4,
                *("graph", state, words, "synchronize"),
            ]

    @pytest.mark.parametrize("every, graph", [(16, 16), (20, 10), (37, 12), (7, 7), (1, 1)])
    def test_a_graph_fits_between_them(self, opened: Open, tmp_path: Path, every: int, graph: int) -> None:
        with opened(config=SamplerConfig(steps=3 * every, step_size=0.02)) as bench:
            bench.ebm.sample(2, every=every, out=tmp_path / "states.npy")
            begin = bench.gpu.log.index("instantiate")
            assert bench.gpu.log[begin:].count("graph") == 3 * (every // graph)

    @pytest.mark.parametrize("diverged", ["drop", "restart"])
    def test_of_chains_that_diverge(self, opened: Open, tmp_path: Path, diverged: str) -> None:
        with opened(cliff, SamplerConfig(steps=20, step_size=0.1, noise=0.3)) as bench:
            device, host = self.both(bench, tmp_path, 9, 5, seed=6, diverged=diverged)
            np.testing.assert_array_equal(np.isnan(device), np.isnan(host))
            assert np.isnan(host).any() == (diverged == "drop")
            close(device, host)


class TestProgress:
    @pytest.mark.parametrize("capturable", [True, False])
    def test_it_is_told_now_and_then(self, opened: Open, capturable: bool) -> None:
        told: list[tuple[int, int]] = []
        config = SamplerConfig(steps=4 * GRAPH_STEPS + 1, step_size=0.1)
        with opened(config=config, capturable=capturable) as bench:
            bench.ebm.sample(6, max_batch=4, callback=ProgressOnly(lambda done, total: told.append((done, total))))
            assert "move" in bench.gpu.launched
        total = 6 * (4 * GRAPH_STEPS + 1)
        assert {all for _, all in told} == {total}
        first = [done for done, _ in told[:4]]
        assert first == [0, 4 * GRAPH_STEPS, 8 * GRAPH_STEPS, 4 * (4 * GRAPH_STEPS + 1)]
        assert [done for done, _ in told][-1] == total and len(told) == 8

    def test_on_the_host_it_is_told_of_every_step(self) -> None:
        told: list[int] = []
        model = ModelSpec("test", TensorSpec("x", SHAPE, "float32"))
        with FunctionEngine(ripple) as engine:
            ebm = Ebm(engine, model, SamplerConfig(steps=3, step_size=0.1))
            ebm.sample(2, callback=ProgressOnly(lambda done, total: told.append(done)))
        assert told == [0, 2, 4, 6]


def second_per_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each measurement of states moves by a second: the first step, with the start's, takes two. With ten, the seventh
    begins at 7, as one that takes half as long again as the first, which counts for less by then, is done by 9.3; the eighth, at 8,
    would be done by 10.2."""
    begun = bench.gpu.launched.count("measure")
    for module in ("ebm", "pace"):
        monkeypatch.setattr(
            f"ebm_export.runtime.{module}.perf_counter", lambda: float(bench.gpu.launched.count("measure") - begun)
        )


class TestDeadline:
    CONFIG = SamplerConfig(steps=25, step_size=0.1, noise=0.4)

    @staticmethod
    def both(bench: Bench, n: int, **keywords: Any) -> tuple[BestSoFar, BestSoFar]:
        """The best states of the loop on the GPU and of that on the host, with all the time there is."""
        bench.gpu.launched.clear()
        device = bench.ebm.sample(n, deadline_ms=1e6, **keywords)
        assert bench.gpu.launched.count("measure") == 1 + bench.ebm.sampler.steps
        bench.gpu.launched.clear()
        *_, host = bench.ebm.stream(n, **keywords)
        assert set(bench.gpu.launched) == {"engine"}
        return device, host

    def check(self, device: BestSoFar, host: BestSoFar) -> None:
        close(device.x, host.x)
        close(device.energy, host.energy)
        np.testing.assert_array_equal(device.diverged, host.diverged)
        assert (device.steps, device.complete) == (host.steps, host.complete) == (25, True)

    @pytest.mark.parametrize("capturable", [True, False])
    def test_the_best_is_the_hosts(self, opened: Open, capturable: bool) -> None:
        with opened(config=self.CONFIG, capturable=capturable) as bench:
            self.check(*self.both(bench, 7, seed=3))
            self.check(*self.both(bench, 7, seed=3, first=4097))

    def test_conditions_and_numbers_that_stay(self, opened: Open) -> None:
        rng = np.random.default_rng(0)
        with opened(around, self.CONFIG) as bench:
            keep = rng.uniform(size=(1, *SHAPE)) < 0.5
            known = rng.standard_normal((1, *SHAPE)).astype(np.float32)
            self.check(*self.both(bench, 6, keep=keep, known=known, centre=rng.standard_normal((6, *SHAPE))))

    def test_chains_that_diverge_keep_their_best(self, opened: Open) -> None:
        with opened(cliff, self.CONFIG.replace(noise=0.9)) as bench:
            device, host = self.both(bench, 9, seed=1)
            assert 0 < device.diverged.sum() < 9
            self.check(device, host)

    @pytest.mark.parametrize("sampler", ["langevin", "underdamped", "optimize"])
    def test_what_is_alike_for_all_steps_is_sent_once(
        self, opened: Open, sampler: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = SamplerConfig.from_dict({"steps": 10**9, "step_size": 0.02, "sampler": sampler})
        with opened(config=config) as bench:
            second_per_step(bench, monkeypatch)
            assert bench.ebm.sample(3, deadline_ms=10e3).steps == 7 and "measure" in bench.gpu.launched
            sizes = [int(entry.split()[-1]) for entry in bench.gpu.log if entry.startswith("to device")]
            assert sizes.count(4) >= 2 and max(sizes) < 2**16  # the largest are the tables of the noise

    def test_a_start_that_is_lost(self, opened: Open) -> None:
        start = np.zeros((2, *SHAPE))
        start[1, 0, 0] = 3
        with opened(cliff, self.CONFIG.replace(steps=3, noise=0.0)) as bench:
            result = bench.ebm.refine(start, deadline_ms=1e6)
            assert result.diverged.tolist() == [False, True] and result.steps == 3
            assert np.isfinite(result.energy[0]) and result.energy[1] == np.inf
            np.testing.assert_array_equal(result.x[1], start[1])

    def test_it_ends_when_all_are_lost(self, opened: Open) -> None:
        start = np.zeros((2, *SHAPE))
        start[:, 0, 0] = 3
        with opened(cliff, self.CONFIG) as bench:
            with pytest.raises(DivergenceError, match="none of 2 chains had a finite energy in 0 steps"):
                bench.ebm.refine(start, deadline_ms=1e6)
            assert "graph" not in bench.gpu.log

    def test_nothing_is_copied_on_the_way(self, opened: Open) -> None:
        with opened(config=self.CONFIG) as bench:
            bench.ebm.sample(4, deadline_ms=1e6)
            log = bench.gpu.log[bench.gpu.log.index("instantiate") + 1 :]
        steps = ["wait for event", *["graph", "wait for event"] * 25]
        assert log == [*steps, f"to host {4 * 15 * 4}", "to host 16", "to host 16", "synchronize"]

    def test_it_stops_in_time(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(config=self.CONFIG) as bench:
            second_per_step(bench, monkeypatch)
            result = bench.ebm.sample(4, deadline_ms=10e3)
            assert (result.steps, result.complete) == (7, False)
            seen: list[np.ndarray] = []
            bench.ebm.sample(4, callback=lambda now: seen.append(now.state.energy.copy()))
            close(result.energy, np.min(seen[: 1 + 7], axis=0))

    def test_no_time_gives_the_start(self, opened: Open) -> None:
        start = np.ones((3, *SHAPE), np.float32)
        with opened(config=self.CONFIG) as bench:
            result = bench.ebm.refine(start, deadline_ms=1e-3)
            assert result.steps == 0 and not result.complete
            np.testing.assert_array_equal(result.x, start)
            np.testing.assert_allclose(result.energy, bench.ebm.score(start)[0], rtol=1e-6)

    def test_a_warm_one_allocates_and_captures_nothing(self, opened: Open) -> None:
        with opened(config=self.CONFIG) as bench:
            bench.ebm.warm(5)
            bench.gpu.log.clear()
            bench.ebm.sample(5, deadline_ms=1e6)
            assert "graph" in bench.gpu.log and not {"cudaMalloc", "begin capture"} & set(bench.gpu.log)

    def test_runs_with_and_without_one_keep_their_graphs(self, opened: Open) -> None:
        with opened(config=self.CONFIG) as bench:
            for captured in (2, 0):
                bench.gpu.log.clear()
                bench.ebm.sample(5, deadline_ms=1e6)
                bench.ebm.sample(5)
                assert bench.gpu.log.count("begin capture") == captured


class TestDivergence:
    """Some chain walks over the cliff before the end, and not all do."""

    CONFIG = SamplerConfig(steps=6 * GRAPH_STEPS, step_size=0.1, noise=0.4)

    @pytest.mark.parametrize("capturable", [True, False])
    def test_stop_tells_the_hosts_step_and_count(self, opened: Open, capturable: bool) -> None:
        with opened(cliff, self.CONFIG, capturable=capturable) as bench:
            with pytest.raises(DivergenceError) as device:
                bench.ebm.sample(9, seed=1)
            # Two evaluations find the scale, and what follows are whole graphs, or as many steps one by one.
            replays, rest = divmod(bench.gpu.launched.count("engine") - 2, GRAPH_STEPS)
            assert rest == 0 and bench.gpu.log.count("graph") == (replays if capturable else 0)
            with pytest.raises(DivergenceError) as host:
                bench.ebm.sample(9, seed=1, callback=ignored)
            assert str(device.value) == str(host.value)
            step = int(str(host.value).split("after step ")[1].split(";")[0])
            # The graph that loses it is the last one, or one more is on its way when the host reads of it.
            assert GRAPH_STEPS * (replays - 2) < step <= GRAPH_STEPS * replays
            assert GRAPH_STEPS * replays < self.CONFIG.steps

    def test_drop(self, opened: Open) -> None:
        with opened(cliff, self.CONFIG) as bench:
            device, host = bench.both(9, seed=1, diverged="drop")
            assert 0 < len(device) < 9
            close(device, host)

    @pytest.mark.parametrize(("seed", "hit", "lost"), [(6, 2, [0, 3]), (39, 1, [1, 2, 3, 7])])
    def test_restart(
        self, opened: Open, seed: int, hit: int, lost: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        with opened(cliff, SamplerConfig(steps=20, step_size=0.1, noise=0.3)) as bench:
            with pytest.raises(DivergenceError, match=f"{hit} of 9 chains"):
                bench.ebm.sample(9, seed=seed)
            close(*bench.both(9, seed=seed, diverged="restart"))
        said = [message.split(" (") for message in caplog.messages if "started anew" in message]
        device, host = said[: len(said) // 2], said[len(said) // 2 :]
        assert device == host  # the steps too
        assert {int(number) for _, rest in said for number in rest.split(": ")[1].split(", ")} == set(lost)

    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    def test_an_energy_out_of_range(self, opened: Open, order: str) -> None:
        highest = np.full(9, -np.inf)

        def look(progress: Any) -> None:
            if not np.isnan(progress.state.energy).any():  # as at the start of "noise-drift", which asks for none
                np.maximum(highest, progress.state.energy, out=highest)

        with opened(config=self.CONFIG.replace(order=order)) as bench:
            bench.ebm.sample(9, seed=1, callback=look)
            energy_range = (
                -100.0,
                float(np.sort(highest)[4:6].mean()),
            )  # between two, so that rounding decides nothing
            with pytest.raises(DivergenceError, match="or an energy outside") as host:
                bench.ebm.sample(9, seed=1, callback=ignored, energy_range=energy_range)
            with pytest.raises(DivergenceError) as device:
                bench.ebm.sample(9, seed=1, energy_range=energy_range)
            assert str(device.value) == str(host.value)
            left = bench.both(9, seed=1, energy_range=energy_range, diverged="drop")
            assert len(left[0]) == 5
            close(*left)

    def test_a_start_that_is_lost(self, opened: Open) -> None:
        start = np.zeros((3, *SHAPE))
        start[1, 0, 0] = 3
        with opened(cliff, SamplerConfig(steps=3, step_size=0.001)) as bench:
            with pytest.raises(DivergenceError, match="1 of 3 chains .* at the start"):
                bench.ebm.refine(start)
            assert len(bench.ebm.refine(start, diverged="drop")) == 2

    def test_a_last_drift_that_overflows(self, opened: Open) -> None:
        config = SamplerConfig(steps=2, step_size=(0.0, 1e38), noise=0.0, order="noise-drift")
        with opened(around, config) as bench:
            centre = np.full((1, *SHAPE), 100.0)
            with pytest.raises(DivergenceError, match="2 of 2 chains .* after step 2"):
                bench.ebm.refine(np.zeros((2, *SHAPE)), centre=centre)


class TestWithoutKernels:
    def test_the_host_takes_over_and_says_so_once(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def missing(call: Any, cuda: Any) -> Kernels:
            raise MissingBackend("NVRTC is not here")

        with opened(config=SamplerConfig(steps=4, step_size=0.1)) as bench:
            monkeypatch.setattr(tensorrt, "load_kernels", missing)
            for seed in range(2):
                assert bench.ebm.sample(3, seed=seed).shape == (3, *SHAPE)
        assert [record.getMessage() for record in caplog.records] == [
            "each step of a chain goes through the host, which costs two copies: NVRTC is not here"
        ]

    def test_a_driver_that_does_not_take_them(self, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
        with opened(config=SamplerConfig(steps=4, step_size=0.1), driver_fails="cuModuleLoadData") as bench:
            bench.ebm.sample(3)
        assert "cuModuleLoadData failed: driver error 209 in words" in caplog.text

    def test_they_are_compiled_for_the_gpu_that_is_there(
        self, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu = Gpu()
        asked: list[str] = []

        def compiled(architecture: str) -> tuple[bytes, str]:
            asked.append(architecture)
            return b"cubin", ""

        monkeypatch.setattr(kernels, "compile_kernels", compiled)
        monkeypatch.setattr(kernels.importlib, "import_module", lambda name: Driver(gpu, emulator))
        loaded = load_kernels(lambda name, *arguments: getattr(gpu, name)(*arguments)[-1], gpu)
        assert asked == ["sm_87"] and gpu.log == ["device 0"]
        loaded.close()
        loaded.close()
        assert not gpu.blocks

    def test_an_error_of_a_launch(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(config=SamplerConfig(steps=4, step_size=0.1)) as bench:
            monkeypatch.setattr(Driver, "cuLaunchKernel", lambda self, *arguments: (1,))
            with pytest.raises(EbmExportError, match="cuLaunchKernel failed: driver error 1 in words"):
                bench.ebm.sample(3)
