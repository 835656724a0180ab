"""K steps in one graph against the step-by-step loop."""

from __future__ import annotations

import contextlib
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.precision import typed
from ebm_export.exporter.sampler_graph import sampler_graph
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends import open_engine
from ebm_export.runtime.chain import chain_steps
from ebm_export.runtime.engine import Engine
from ebm_export.runtime.fused_steps import Fused, ports
from ebm_export.runtime.known_scales import HIGHEST_SCALE, KnownScales
from ebm_export.runtime.noise import NoiseSource
from ebm_export.runtime.run import run_chains

from .referee import score_graph

COUNT = 4


class Net(nn.Module):
    """A perceptron on x and a condition."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return 3 * self.net(torch.cat([x, goal], 1)).squeeze(1) + 0.3 * x.square().sum(1)


GOAL = np.random.default_rng(3).standard_normal((5, 3)).astype(np.float32)

SETTINGS: dict[str, dict[str, Any]] = {
    "langevin": {},
    "noise first": {"order": "noise-drift", "noise": 0.05},
    "schedules": {"step_size": [0.2, 0.01], "noise": [0.3, 0.0], "grad_clip": 0.5},
    "clipped norm": {"grad_clip": 0.5, "grad_clip_mode": "norm"},
    "bounds": {"bounds": (-0.4, 0.5), "order": "noise-drift"},
    "reflecting": {"bounds": (-0.4, 0.5), "bounds_mode": "reflect"},
    "annealed": {"anneal": 20.0},
    "preconditioned": {"sampler": "preconditioned", "warmup": 6},
    "preconditioned, no warm-up": {"sampler": "preconditioned", "warmup": 0},
    "preconditioned, bounds": {"sampler": "preconditioned", "warmup": 6, "bounds": (-0.4, 0.5)},
    "preconditioned, reflecting": {
        "sampler": "preconditioned",
        "warmup": 6,
        "bounds": (-0.4, 0.5),
        "bounds_mode": "reflect",
    },
    "underdamped": {"sampler": "underdamped", "friction": 2.0},
    "underdamped, bounds": {"sampler": "underdamped", "bounds": (-0.4, 0.5)},
    "underdamped, reflecting": {"sampler": "underdamped", "bounds": (-0.4, 0.5), "bounds_mode": "reflect"},
    "optimize": {"sampler": "optimize", "momentum": 0.7, "bounds": (-0.1, 0.2)},
    "optimize, reflecting": {
        "sampler": "optimize",
        "momentum": 0.7,
        "bounds": (-0.1, 0.2),
        "bounds_mode": "reflect",
    },
}


def config_of(name: str, **changes: Any) -> SamplerConfig:
    return SamplerConfig(**({"steps": 18, "step_size": 0.05} | SETTINGS[name] | changes))


def engines(
    folder: Path,
    config: SamplerConfig,
    backend: str,
    precision: str = "fp32",
    count: int = COUNT,
    *,
    each: bool = False,
    highest: float = HIGHEST_SCALE,
    model: ir.Model | None = None,
) -> tuple[Engine, Fused]:
    if model is None:
        model = score_graph(make_energy(Net().eval(), torch.randn(4, 3), cond={"goal": torch.randn(4, 3)}))
    model = model if precision == "fp32" else typed(model, precision)
    scaled = precision == "fp16"
    paths = {
        "score": model,
        "sampler": sampler_graph(model, config, count, highest_scale=highest if scaled else None, each=each),
    }
    opened = []
    for name, graph in paths.items():
        proto = ir.to_proto(graph)
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, folder / f"{name}.onnx")
        known = KnownScales(highest=highest)
        opened.append(open_engine(backend, folder / f"{name}.onnx", precision=precision, threads=1, scales=known))
    fused = Fused(opened[1], count, config, each=each)
    opened[0].open()
    fused.open()
    return opened[0], fused


def both(
    engine: Engine, fused: Fused, config: SamplerConfig, batch: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    start = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32) * 0.3
    drawn = []
    for steps in (None, fused):
        drawn.append(
            run_chains(
                engine,
                config,
                lambda chains: start[chains.start : chains.stop],
                5,
                seed=7,
                cond={"goal": GOAL},
                max_batch=batch,
                fused=steps,
            )
        )
    return drawn[0], drawn[1]


EXACT = sorted(set(SETTINGS) - {"clipped norm"})


@pytest.mark.parametrize("name", EXACT)
def test_the_bits_of_the_loop_with_onnxruntime(tmp_path: Path, name: str) -> None:
    config = config_of(name)
    engine, fused = engines(tmp_path, config, "onnxruntime")
    one, many = both(engine, fused, config)
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("name", ["langevin", "optimize"])
def test_the_scale_stops_where_the_loops_does(tmp_path: Path, name: str) -> None:
    config = config_of(name)
    engine, fused = engines(tmp_path, config, "onnxruntime", "fp16", highest=0.5)
    free, _ = engines(tmp_path, config, "onnxruntime", "fp16")
    seen: list[float] = []
    start = np.full((2, 3), 0.3, np.float32)
    for one in (engine, free):
        run_chains(one, config, lambda chains: start[chains.start : chains.stop], 2, cond={"goal": GOAL[:2]},
                   callback=lambda now: seen.append(float(np.max(now.grad_scale))))  # fmt: skip
    assert max(seen[: len(seen) // 2]) == 0.5 < max(seen)
    one, many = both(engine, fused, config)
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)
    answer = fused.engine.run(_block(fused, config))
    assert answer["sampler.next.grad_scale"].max() == 0.5


def _block(fused: Fused, config: SamplerConfig) -> dict[str, np.ndarray]:
    """Inputs of one block of still chains."""
    wanted = ports(config.sampler, config.order)
    rows = np.zeros((2, 3), np.float32)
    inputs = {"x": rows, "goal": GOAL[:2], "grad_scale": np.full(2, 0.25, np.float32)}
    inputs |= {f"sampler.{state}": rows for state in wanted.state}
    inputs |= {f"sampler.{series}": np.zeros(fused.count, np.float32) for series in wanted.series}
    return inputs | ({"sampler.noise": np.zeros((fused.count, 2, 3), np.float32)} if wanted.noise else {})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_loop_up_to_rounding(tmp_path: Path, name: str, backend: str) -> None:
    config = config_of(name)
    engine, fused = engines(tmp_path, config, backend)
    one, many = both(engine, fused, config)
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", sorted(name for name in SETTINGS if SETTINGS[name].get("order") != "noise-drift"))
def test_it_tells_of_each_step(tmp_path: Path, name: str, precision: str, backend: str) -> None:
    config = config_of(name)
    engine, fused = engines(tmp_path, config, backend, precision, each=True)
    start = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32) * 0.3
    chains: list[list[tuple[np.ndarray, np.ndarray]]] = []
    told = set()
    for steps in (None, fused):
        chains.append([])
        for now in chain_steps(engine, config, start, range(5), 5, seed=7, cond={"goal": GOAL}, fused=steps):
            each = None if steps is None or now.done == 0 else now.info.each
            if each is None:
                chains[-1].append((now.state.position.copy(), now.state.energy.copy()))
            else:
                chains[-1] += zip(each.position.copy(), each.energy.copy(), strict=True)
                told.add(len(each.energy))
                np.testing.assert_array_equal(each.position[-1], now.state.position)
                np.testing.assert_array_equal(each.energy[-1], now.state.energy)
    assert told == {COUNT}
    assert len(chains[0]) == len(chains[1]) == config.steps + 1
    loose = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 5e-3, "atol": 2e-3}
    for one, many in zip(*chains, strict=True):
        for single, several in zip(one, many, strict=True):
            np.testing.assert_allclose(single, several, **loose)


def _bowl(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x.square().flatten(1).sum(1)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "noise-drift"},
        {"step_size": (0.2, 0.01)},
        {"sampler": "preconditioned", "warmup": 0},
        {"sampler": "underdamped"},
        {"sampler": "optimize"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("ahead", "together"), [(True, True), (False, False)])
def test_the_steady_loop_allocates_no_state(
    tmp_path: Path,
    settings: dict[str, Any],
    backend: str,
    ahead: bool,
    together: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ebm_export.runtime.chain_random.pays", lambda numbers, stride=1: ahead)
    x = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
    config = SamplerConfig.from_dict({"steps": 160, "step_size": 0.01, **settings})
    model = score_graph(make_energy(_bowl, torch.from_numpy(x)))
    engine, fused = engines(tmp_path, config, backend, model=model)
    peaks = []
    steps = chain_steps(engine, config, x, range(len(x)), len(x), fused=fused, unwatched=together)
    with contextlib.closing(steps):
        for now in steps:
            if tracemalloc.is_tracing():
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
            if now.done:  # what is kept is there after the first blocks
                tracemalloc.start()
    tracemalloc.stop()
    assert len(peaks) == (4 if together else 39)
    # At the end all states are looked at. numpy's iterators take 25 kB for a broadcast of any size.
    assert max(peaks[:-1]) < x.nbytes / 10


def test_the_noise_of_blocks_is_drawn_by_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int, str]] = []
    real = NoiseSource.normals

    def told(self: NoiseSource, step: int, chains: Any, shape: tuple[int, ...], out: np.ndarray) -> None:
        drawn.append((step, len(out), threading.current_thread().name))
        real(self, step, chains, shape, out)

    monkeypatch.setattr(NoiseSource, "normals", told)
    monkeypatch.setattr("ebm_export.runtime.noise_ahead.usable_cores", lambda: 2)
    x = np.zeros((1, 3, 32, 32), np.float32)  # of which one step alone would have too few numbers
    config = SamplerConfig(steps=6 * COUNT, step_size=0.01)
    engine, fused = engines(
        tmp_path, config, "onnxruntime", model=score_graph(make_energy(_bowl, torch.zeros(x.shape)))
    )
    run_chains(engine, config, lambda chains: x, 1, fused=fused)
    assert drawn == [(step, COUNT, "ebm-export noise") for step in range(0, config.steps, COUNT)]


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_tensorrt_builds_it(name: str, precision: str) -> None:
    from ebm_export.runtime.tensorrt_library import build_plan

    model = score_graph(make_energy(Net().eval(), torch.randn(4, 3), cond={"goal": torch.randn(4, 3)}))
    model = model if precision == "fp32" else typed(model, precision)
    graph = sampler_graph(model, config_of(name), COUNT, highest_scale=HIGHEST_SCALE if precision == "fp16" else None)
    assert len(build_plan(ir.to_proto(graph).SerializeToString(), batch=(1, 2, 4)).data) > 1000
