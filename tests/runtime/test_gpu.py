"""Which GPU an engine computes on, and that a run is not gone on with on another model."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, UsageError, gpu
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.tensorrt import TensorRtEngine
from ebm_export.runtime.checkpoint import Checkpoint, Saved
from ebm_export.runtime.gpu import gpu_said, name_and_capability
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

CARDS = [(b"NVIDIA L4", 8, 9), (b"Orin", 8, 7)]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, int, int]]:
    """What cuda-python tells, a stand-in for it."""
    found = list(CARDS)

    def properties(number: int) -> tuple[int, Any]:
        if number >= len(found):
            return 101, None
        name, major, minor = found[number]
        return 0, SimpleNamespace(name=name.ljust(256, b"\0"), major=major, minor=minor)

    bindings = ModuleType("cuda.bindings")
    bindings.runtime = SimpleNamespace(cudaGetDeviceProperties=properties)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return found


def without_cuda_python(monkeypatch: pytest.MonkeyPatch, said: dict[str, str]) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setattr(gpu, "describe_device", lambda: said)


def test_name_and_capability_are_those_of_cuda(cards: list[tuple[bytes, int, int]]) -> None:
    assert name_and_capability() == ("NVIDIA L4", "8.9")
    assert gpu_said(1) == "Orin"
    assert name_and_capability(2) is None
    cards[0] = (b"NVIDIA A100-SXM4-40GB MIG 1g.5gb", 8, 0)
    assert gpu_said() == "NVIDIA A100-SXM4-40GB"


def test_without_cuda_python_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cuda_python(monkeypatch, {"GPUs": "NVIDIA L4; NVIDIA L4"})
    assert name_and_capability() is None and gpu_said() == gpu_said(1) == "NVIDIA L4"
    without_cuda_python(monkeypatch, {"GPUs": "NVIDIA L4; NVIDIA T4"})
    assert gpu_said() is None, "which of the two is the first is not known"
    without_cuda_python(monkeypatch, {})
    assert gpu_said() is None


def test_engines_name_the_one_they_are_on(cards: list[tuple[bytes, int, int]], tmp_path: Path) -> None:
    assert TensorRtEngine(tmp_path / "a.plan", precision="fp16").gpu == "NVIDIA L4"
    engine = OnnxRuntimeEngine(tmp_path / "a.onnx", precision="fp32")
    for provider, number, expected in (
        ("CPUExecutionProvider", "0", None),
        ("CUDAExecutionProvider", "1", "Orin"),
        ("TensorrtExecutionProvider", "0", "NVIDIA L4"),
    ):
        engine.provider = provider
        options = {provider: {"device_id": number}}
        engine._session = SimpleNamespace(get_provider_options=lambda options=options: options)
        assert engine.gpu == expected


class OnGpu(FunctionEngine):
    """A function that is said to run on GPU 0."""

    @property
    def gpu(self) -> str | None:
        return gpu_said()


def ebm(kind: type[FunctionEngine]) -> Ebm:
    engine = kind(lambda x: ((x * x).sum(axis=1) / 2, x))
    return Ebm(engine, ModelSpec("bowl", TensorSpec("x", (2,), "float32")), SamplerConfig(steps=5, step_size=0.1))


def test_another_model_is_another_run(cards: list[tuple[bytes, int, int]], tmp_path: Path) -> None:
    whole = ebm(OnGpu).sample(4, 7, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(ebm(OnGpu).sample(4, 7, checkpoint=tmp_path / "run"), whole)
    cards[0] = (b"NVIDIA H200", 9, 0)
    said = (
        "is of another run: GPU was 'NVIDIA L4' and is 'NVIDIA H200' (other GPUs round in other ways: go on with it on one like the "
        "first). Give the same again"
    )
    with pytest.raises(UsageError, match=re.escape(said)):
        ebm(OnGpu).sample(4, 7, checkpoint=tmp_path / "run")
    ebm(FunctionEngine).sample(4, 7, checkpoint=tmp_path / "cpu")
    cards.clear()
    ebm(FunctionEngine).sample(4, 7, checkpoint=tmp_path / "cpu")  # on which no GPU has a say


@pytest.mark.parametrize("told", ["NVIDIA L4", "NVIDIA L4; NVIDIA L4", "NVIDIA L4; NVIDIA T4", ""])
@pytest.mark.parametrize("first", ["cuda-python", "the driver"])
def test_the_same_gpu_is_the_same_run_whoever_tells_of_it(
    cards: list[tuple[bytes, int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, first: str
) -> None:
    """cuda-python may come or go between two runs."""

    def sample(by: str) -> np.ndarray:
        with monkeypatch.context() as now:
            if by == "the driver":
                without_cuda_python(now, {"GPUs": told} if told else {})
            return ebm(OnGpu).sample(4, 7, checkpoint=tmp_path / "run")

    whole = sample(first)
    for by in ("cuda-python", "the driver"):
        np.testing.assert_array_equal(sample(by), whole)
    cards[0] = (b"NVIDIA H200", 9, 0)
    if first == "cuda-python" or told in ("NVIDIA L4", "NVIDIA L4; NVIDIA L4"):
        with pytest.raises(UsageError, match="is of another run: GPU was 'NVIDIA L4' and is 'NVIDIA H200'"):
            sample("cuda-python")


def test_a_model_that_was_told_once_stays_known(tmp_path: Path) -> None:
    for said in ({}, {"GPU": "NVIDIA L4"}, {}):
        run = Checkpoint(tmp_path / "run", said)
        run.load()
        run.save(Saved.beginning(4, (2,)))
    with pytest.raises(UsageError, match="GPU was 'NVIDIA L4' and is 'NVIDIA H200'"):
        Checkpoint(tmp_path / "run", {"GPU": "NVIDIA H200"}).load()
