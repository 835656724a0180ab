"""What `ebm-run verify` says of a loop that stays on the device: right, and wrong in several ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import FunctionEngine, SamplerConfig
from ebm_export.runtime.cuda import loop
from ebm_export.runtime.device_loop import Handover
from ebm_export.runtime.device_loop_check import LARGEST_GAP, check_device_loop

from .bench import SHAPE, Bench, Open, around, cliff, ripple

CONFIG = SamplerConfig(steps=60, step_size=0.1)


def golden(at: float = 1.0, cond: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((2, 8, *SHAPE)).astype(np.float32) * np.float32(at)}
    return arrays | ({"cond.centre": arrays["x"] * 2} if cond else {})


def gap(bench: Bench, config: SamplerConfig = CONFIG, **options: Any) -> float | None:
    return check_device_loop(bench.ebm.engine, bench.ebm.model, config, golden(**options))


@pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
def test_a_right_loop(opened: Open, order: str) -> None:
    with opened() as bench:
        found = gap(bench, CONFIG.replace(order=order))
        assert found is not None and 0 <= found < 1e-5
        assert "graph" in bench.gpu.log


def test_a_plan_that_takes_fewer_chains(opened: Open) -> None:
    with opened(largest=3) as bench:
        found = gap(bench)
        assert found is not None and 0 <= found < 1e-5


@pytest.mark.parametrize(
    ("sampler", "kernel"), [("optimize", "descend"), ("underdamped", "kick"), ("preconditioned", "settle")]
)
def test_a_right_loop_of_another_sampler(opened: Open, sampler: str, kernel: str) -> None:
    with opened() as bench:
        found = gap(bench, CONFIG.replace(sampler=sampler, step_size=0.02))
        assert found is not None and 0 <= found < 1e-5
        assert kernel in bench.gpu.launched


@pytest.mark.parametrize("sampler", ["optimize", "underdamped", "preconditioned"])
def test_a_wrong_loop_of_another_sampler(opened: Open, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    run = loop.CudaLoop.run
    wrong: Callable[[Handover], Handover] = lambda start: start._replace(config=start.config.replace(step_size=0.04))  # noqa: E731
    monkeypatch.setattr(loop.CudaLoop, "run", lambda self, start: run(self, wrong(start)))
    with opened() as bench:
        found = gap(bench, CONFIG.replace(sampler=sampler, step_size=0.02))
        assert found is not None and found > LARGEST_GAP


def test_a_sampler_that_adapts_for_longer_than_the_check_takes(opened: Open) -> None:
    with opened() as bench:
        found = gap(bench, CONFIG.replace(sampler="mala", warmup=50))
        assert found is not None and found < 1e-5


def test_with_conditions(opened: Open) -> None:
    with opened(around) as bench:
        found = gap(bench, cond=True)
        assert found is not None and found < 1e-5


@pytest.mark.parametrize(
    "wrong",
    [
        lambda start: start._replace(key=(start.key[0] + 1, start.key[1])),
        lambda start: start._replace(done=start.done + 1),
        lambda start: start._replace(chains=range(start.chains.start + 1, start.chains.stop + 1)),
        lambda start: start._replace(config=start.config.replace(step_size=0.05, noise=0.4472)),
        lambda start: start._replace(config=start.config.replace(grad_clip=0.5)),
    ],
    ids=["seed", "step", "chains", "step size", "clipping"],
)
def test_a_wrong_loop(opened: Open, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Handover], Handover]) -> None:
    run = loop.CudaLoop.run
    monkeypatch.setattr(loop.CudaLoop, "run", lambda self, start: run(self, wrong(start)))
    with opened() as bench:
        found = gap(bench)
        assert found is not None and found > 2 * LARGEST_GAP


def test_divergence_on_the_device_alone(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: loop.CudaLoop, start: Handover) -> tuple[np.ndarray, np.ndarray]:
        return start.position, np.full(len(start.position), 5, np.int32)

    monkeypatch.setattr(loop.CudaLoop, "run", run)
    with opened() as bench:
        assert gap(bench) == float("inf")


def test_nothing_to_compare(opened: Open) -> None:
    with opened(cliff) as bench:
        assert gap(bench, at=10.0) is None  # the chains diverge
    with opened() as bench:
        assert gap(bench, CONFIG.replace(step_size=0.0)) is None  # nothing moves
    with FunctionEngine(ripple) as engine, opened() as bench:
        assert check_device_loop(engine, bench.ebm.model, CONFIG, golden()) is None  # no such loop
