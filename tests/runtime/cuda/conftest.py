"""The kernels, built for the CPU once, and a TensorRT engine on a stand-in for a GPU that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, SamplerConfig, tensorrt_library
from ebm_export.runtime.backends import tensorrt
from ebm_export.runtime.backends.tensorrt import TensorRtEngine
from ebm_export.runtime.cuda.kernels import Kernels
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

from .bench import SHAPE, Bench, Open, around, ripple
from .emulator import Emulator
from .stand_in import Driver, Energy, Gpu, Plan, nothing_left


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def emulator(_built: Emulator) -> Emulator:
    _built.order = 0
    return _built


@pytest.fixture
def opened(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Open:
    (tmp_path / "score.plan").write_bytes(b"plan")

    @contextmanager
    def opened(
        energy: Energy = ripple,
        config: SamplerConfig | None = None,
        *,
        side_first: bool = False,
        fails: str = "",
        driver_fails: str = "",
        **plan_options: Any,
    ) -> Iterator[Bench]:
        gpu = Gpu(side_first=side_first, fails=fails)
        conditions = {"centre": SHAPE} if energy is around else {}
        plan = Plan(gpu, energy, {"x": SHAPE, **conditions}, **plan_options)
        library = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), nptype=lambda d: np.float32)
        monkeypatch.setattr(tensorrt_library, "import_tensorrt", lambda: library)
        monkeypatch.setattr(tensorrt_library, "load_plan", lambda data: plan)
        monkeypatch.setattr(tensorrt, "_import_cuda", lambda: gpu)
        monkeypatch.setattr(
            tensorrt, "load_kernels", lambda call, cuda: Kernels(Driver(gpu, emulator, driver_fails), b"cubin")
        )
        model = ModelSpec(
            "test",
            TensorSpec("x", SHAPE, "float32"),
            cond=tuple(TensorSpec(name, shape, "float32") for name, shape in conditions.items()),
        )
        with nothing_left(gpu):
            engine = TensorRtEngine(tmp_path / "score.plan", precision="fp16")
            with engine:
                yield Bench(gpu, plan, Ebm(engine, model, config))

    return opened
