"""The loop on a real GPU: needs one, with TensorRT and cuda-python, and is skipped elsewhere.

It has not run yet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.runtime import Ebm, SamplerConfig
from ebm_export.runtime.backends.tensorrt import TensorRtEngine, available
from ebm_export.runtime.device_loop_check import check_device_loop
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.noise import normal
from ebm_export.runtime.progress import ProgressOnly
from ebm_export.runtime.tensorrt_library import build_plan

REASON = available()
pytestmark = [pytest.mark.tensorrt, pytest.mark.skipif(REASON is not None, reason=f"needs a GPU: {REASON}")]

SHAPE = (784,)
TAIL = 3.6541528853610088
MODEL = ModelSpec("ripple", TensorSpec("x", SHAPE, "float32"))


def ripple_graph() -> onnx.ModelProto:
    """E(x) = sum of x^2 / 2 + cos 2x, and its scaled gradient."""
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "x"], ["square"]),
        node("Mul", ["square", "half"], ["bowl"]),
        node("Mul", ["x", "two"], ["twice"]),
        node("Cos", ["twice"], ["cosine"]),
        node("Add", ["bowl", "cosine"], ["terms"]),
        node("ReduceSum", ["terms", "axis"], ["energy"], keepdims=0),
        node("Sin", ["twice"], ["sine"]),
        node("Mul", ["sine", "two"], ["slope"]),
        node("Sub", ["x", "slope"], ["plain"]),
        node("Unsqueeze", ["grad_scale", "axis"], ["scale"]),
        node("Mul", ["plain", "scale"], ["grad"]),
    ]
    float_info = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape])  # noqa: E731
    constants = [
        numpy_helper.from_array(np.array(value, dtype), name)
        for name, value, dtype in (("half", 0.5, np.float32), ("two", 2, np.float32), ("axis", [1], np.int64))
    ]
    graph = helper.make_graph(
        nodes,
        "score",
        [float_info("x", *SHAPE), float_info("grad_scale")],
        [float_info("energy"), float_info("grad", *SHAPE)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorRtEngine]:
    folder = tmp_path_factory.mktemp("plan")
    onnx.save(ripple_graph(), folder / "score.onnx")
    (folder / "score.plan").write_bytes(build_plan(folder / "score.onnx", batch=(1, 64, 64)).data)
    opened = TensorRtEngine(folder / "score.plan", precision="fp32")
    with opened:
        yield opened


def test_the_engine_has_the_loop(engine: TensorRtEngine) -> None:
    assert engine.device_loop() is not None


def test_noise_has_numpys_bits(engine: TensorRtEngine) -> None:
    config = SamplerConfig(steps=1, step_size=0.0, noise=1.0)
    drawn = Ebm(engine, MODEL, config).refine(np.zeros((200, *SHAPE)), seed=7, max_batch=64)
    expected = normal(7, 0, range(200), SHAPE)
    inside = np.abs(expected) < TAIL
    np.testing.assert_array_equal(drawn[inside], expected[inside])
    np.testing.assert_array_max_ulp(drawn[~inside], expected[~inside], maxulp=1)


@pytest.mark.parametrize(
    "how",
    [{}, {"order": "noise-drift"}, {"sampler": "optimize"}, {"sampler": "underdamped"}, {"sampler": "preconditioned"}],
    ids=str,
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"grad_clip": 0.5},
        {"grad_clip": 5.0, "grad_clip_mode": "norm"},
        {"bounds": (-1, 1), "bounds_mode": "reflect"},
    ],
    ids=str,
)
def test_chains_end_where_those_on_the_host_do(
    engine: TensorRtEngine, how: dict[str, object], settings: dict[str, object]
) -> None:
    config = SamplerConfig.from_dict({"steps": 60, "step_size": 0.05, **how, **settings})
    start = np.random.default_rng(0).standard_normal((1, 8, *SHAPE)).astype(np.float32)
    gap = check_device_loop(engine, MODEL, config, {"x": start})
    assert gap is not None and gap < 1e-4


def test_the_best_by_a_deadline_is_the_hosts(engine: TensorRtEngine) -> None:
    ebm = Ebm(engine, MODEL, SamplerConfig(steps=60, step_size=0.05))
    ebm.warm(8)
    device = ebm.sample(8, seed=1, deadline_ms=1e6)
    *_, host = ebm.stream(8, seed=1)
    assert device.steps == host.steps == 60
    np.testing.assert_allclose(device.energy, host.energy, rtol=1e-4)
    np.testing.assert_allclose(device.x, host.x, atol=1e-2)


@pytest.mark.parametrize("sampler", ["langevin", "preconditioned", "underdamped", "optimize"])
def test_a_run_that_was_cut_ends_with_the_same_bits(engine: TensorRtEngine, tmp_path: Path, sampler: str) -> None:
    ebm = Ebm(engine, MODEL, SamplerConfig.from_dict({"steps": 100, "step_size": 0.02, "sampler": sampler}))
    whole = ebm.sample(8, seed=1, every=20, out=tmp_path / "whole.npy")

    def cut(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    run: dict[str, Any] = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0, "every": 20}
    with pytest.raises(KeyboardInterrupt):
        ebm.sample(8, seed=1, callback=ProgressOnly(cut), out=tmp_path / "cut.npy", **run)
    np.testing.assert_array_equal(ebm.sample(8, seed=1, out=tmp_path / "cut.npy", **run), whole)
    np.testing.assert_array_equal(np.load(tmp_path / "cut.npy"), np.load(tmp_path / "whole.npy"))


def test_steps_are_captured(engine: TensorRtEngine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ebm_export"):
        Ebm(engine, MODEL, SamplerConfig(steps=40, step_size=0.05)).sample(5)
    assert "not as a CUDA graph" not in caplog.text
