"""What is said of low precisions that gain nothing, at the end of an export and before an engine's samples are drawn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ebm_export.exporter import hardly_faster as module
from ebm_export.exporter.hardly_faster import hardly_faster, warn_before_samples
from ebm_export.runtime import FunctionEngine

INPUTS = {"x": np.zeros((8, 2), np.float32), "grad_scale": np.ones(8, np.float32)}


def test_low_precisions_that_gain_nothing_or_little_are_named() -> None:
    times = [
        ("openvino", "fp32", 2.0),
        ("openvino", "int8", 2.5),
        ("openvino", "bf16", 1.93),
        ("openvino", "fp16", 1.996),
        ("openvino", "mixed", 1.81),
        ("onnxruntime", "int8", 9.0),
    ]
    rows = [
        {
            "file": f"score.{precision}.{backend}",
            "backend": backend,
            "precision": precision,
            "batch": 8,
            "median ms": time,
        }
        for backend, precision, time in times
    ]
    assert hardly_faster(rows) == [
        "score.int8.openvino is no faster than fp32 on this machine: 2.5 against 2 ms a step at a batch of 8",
        "score.bf16.openvino is only 4 % faster than fp32 on this machine: 1.93 against 2 ms a step at a batch of 8",
        "score.fp16.openvino is no faster than fp32 on this machine: 2 against 2 ms a step at a batch of 8",
    ]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only engines move."""
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: NOW[0]))


NOW = [1000.0]


def engine_of(milliseconds: float, backend: str = "openvino") -> FunctionEngine:
    """|x|^2, whose first call compiles for half a second."""
    calls = iter([0.5])

    def bowl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        NOW[0] += next(calls, 1e-3 * milliseconds)
        return (x * x).sum(axis=1), 2 * x

    engine = FunctionEngine(bowl)
    engine.backend = backend
    return engine


def test_a_slow_engine_is_named_before_its_samples_are_drawn(caplog: pytest.LogCaptureFixture) -> None:
    """A chain's samples took 28 minutes, and the last line of all said that there was no gain."""
    warn_before_samples("score.int8.xml", "int8", engine_of(8), engine_of(4), INPUTS)
    (said,) = caplog.messages
    assert said.startswith(
        "score.int8.xml is no faster than fp32 on this machine: 8 against 4 ms a step at a batch of 8; "
    )
    assert "Ctrl-C, and an export without int8, save the time" in said


@pytest.mark.parametrize(
    ("engine", "fp32"), [(engine_of(2), engine_of(8)), (engine_of(8), engine_of(2, backend="onnxruntime"))]
)
def test_nothing_is_said_of_a_gain_or_of_another_backend(
    engine: FunctionEngine, fp32: FunctionEngine, caplog: pytest.LogCaptureFixture
) -> None:
    warn_before_samples("score.int8.xml", "int8", engine, fp32, INPUTS)
    assert not caplog.messages
