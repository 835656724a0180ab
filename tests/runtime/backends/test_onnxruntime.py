"""The onnxruntime engine, on the CPU provider."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ebm_export.runtime.backends import available, open_engine
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.errors import EbmExportError, LoadError, MissingBackend, UsageError
from ebm_export.runtime.verify import check_engine

from ..tiny_bundle import golden_data, quadratic_graph

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(quadratic_graph(cond=True), tmp_path / "score.fp32.onnx")
    return tmp_path / "score.fp32.onnx"


def make(path: Path, **options: Any) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(path, precision="fp32", threads=1, options=options)


def test_answers_at_every_batch_size(path: Path) -> None:
    with make(path) as engine:
        assert all(result.passed for result in check_engine(engine, golden_data(cond=True), "fp32"))
        assert isinstance(engine, OnnxRuntimeEngine) and engine.provider == CPU


@pytest.mark.parametrize("asked_for", [False, True])
def test_a_device_reports_to_nobody_unless_asked_to(path: Path, asked_for: bool) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine\n"
        "with OnnxRuntimeEngine(Path(sys.argv[1]), precision='fp32'): print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    cache = path.parent / "cache"
    cache.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"XDG_CACHE_HOME": str(cache)} | ({"ORT_DISABLE_TELEMETRY": "0"} if asked_for else {})
    run = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ("0" if asked_for else "1")
    if not asked_for:
        assert list(cache.rglob("*")) == []


def test_a_node_that_cannot_be_computed(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (int64[B] label) => (float[B] energy) <float[2] table = {1, 2}> { energy = Gather (table, label) }
    """)
    onnx.save(model, tmp_path / "m.onnx")
    with make(tmp_path / "m.onnx") as engine, pytest.raises(EbmExportError) as caught:
        engine.run({"label": np.array([7])})
    text = str(caught.value)
    assert text.startswith("onnxruntime cannot run m.onnx: ") and "Gather" in text and "\n" not in text


def test_threads_are_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    session = onnxruntime.InferenceSession

    def watched(path: Path, settings: Any, **rest: Any) -> Any:
        made.append((settings.intra_op_num_threads, settings.inter_op_num_threads))
        return session(path, settings, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    for threads in (2, None):
        OnnxRuntimeEngine(path, precision="fp32", threads=threads).open()
    assert made == [(2, 1), (0, 1)]


def test_inputs_the_graph_does_not_have_are_left_out(tmp_path: Path) -> None:
    onnx.save(quadratic_graph(), tmp_path / "score.onnx")
    inputs = {"x": np.ones((2, 3), np.float32), "grad_scale": np.ones(2, np.float32)}
    with make(tmp_path / "score.onnx") as engine:
        np.testing.assert_array_equal(engine.run({**inputs, "unused": np.ones(2)})["grad"], inputs["x"])


def test_close_twice_and_use_afterwards(path: Path) -> None:
    engine = make(path)
    engine.open()
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="the engine is not open: call it inside a with statement"):
        engine.run({})


class TestBoundMemory:
    """A batch size that comes again is bound; nothing but speed may tell."""

    @staticmethod
    def inputs(rng: np.random.Generator, rows: int, size: int = 3) -> dict[str, np.ndarray]:
        names = {"x": (rows, size), "centre": (rows, size), "grad_scale": (rows,)}
        return {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in names.items()}

    def test_every_call_answers_its_own_inputs(self, path: Path) -> None:
        rng = np.random.default_rng(0)
        with make(path) as engine:
            for rows in (
                4,
                4,
                4,
                4,
                2,
                4,
                4,
                4,
                4,
                30_000,
                30_000,
                30_000,
                30_000,
            ):  # the last are too large to be copied
                inputs = self.inputs(rng, rows)
                kept = {name: array.copy() for name, array in inputs.items()}
                answer = engine.run(inputs)
                difference = kept["x"] - kept["centre"]
                np.testing.assert_allclose(answer["grad"], kept["grad_scale"][:, None] * difference, rtol=1e-6)
                np.testing.assert_allclose(answer["energy"], 0.5 * (difference**2).sum(axis=1), rtol=1e-5)
                for name, array in inputs.items():
                    np.testing.assert_array_equal(array, kept[name])

    def test_is_to_the_bit_what_an_unbound_call_gives(self, path: Path) -> None:
        rng = np.random.default_rng(1)
        with make(path) as bound, make(path) as fresh:
            for _ in range(5):
                inputs = self.inputs(rng, 7)
                fresh.run(self.inputs(rng, 6))  # another size in between: this engine never binds
                expected, answer = fresh.run(inputs), bound.run(inputs)
                for name in ("energy", "grad"):
                    np.testing.assert_array_equal(answer[name], expected[name])

    def test_answers_outlive_the_engine(self, path: Path) -> None:
        inputs = self.inputs(np.random.default_rng(2), 5)
        engine = make(path)
        with engine:
            answers = [engine.run(inputs) for _ in range(4)]
            expected = answers[-1]["grad"].copy()
        engine.open()
        np.testing.assert_array_equal(answers[-1]["grad"], expected)
        np.testing.assert_array_equal(engine.run(inputs)["grad"], expected)
        engine.close()

    def test_a_node_that_cannot_be_computed(self, tmp_path: Path) -> None:
        model = onnx.parser.parse_model("""
            <ir_version: 10, opset_import: ["" : 20]>
            g (int64[B] label) => (float[B] energy) <float[2] table = {1, 2}> { energy = Gather (table, label) }
        """)
        onnx.save(model, tmp_path / "m.onnx")
        with make(tmp_path / "m.onnx") as engine:
            for label in (0, 1, 1, 0):
                np.testing.assert_array_equal(engine.run({"label": np.array([label])})["energy"], [label + 1])
            with pytest.raises(EbmExportError, match=r"onnxruntime cannot run m\.onnx: .*Gather"):
                engine.run({"label": np.array([7])})
            np.testing.assert_array_equal(engine.run({"label": np.array([1])})["energy"], [2])

    def test_a_call_allocates_no_array(self, path: Path) -> None:
        inputs = self.inputs(np.random.default_rng(3), 30_000)
        with make(path) as engine:
            for _ in range(3):
                engine.run(inputs)
            tracemalloc.start()
            for _ in range(5):
                engine.run(inputs)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < inputs["x"].nbytes / 20


class TestProviders:
    @staticmethod
    def with_cuda_compiled_in(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
        """Where it does not start; returns the lists of providers that sessions are asked to have."""
        session = onnxruntime.InferenceSession
        asked: list[list[Any]] = []

        def without_cuda(path: Path, settings: Any, providers: list[Any], **rest: Any) -> Any:
            asked.append(providers)
            return session(path, settings, providers=[one for one in providers if CUDA not in (one, one[0])], **rest)

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
        return asked

    def test_cuda_keeps_to_float32_and_picks_no_kernel_by_its_time(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.with_cuda_compiled_in(monkeypatch)
        own = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        with make(path):
            assert asked == [[(CUDA, own), CPU], [CPU]]
        for given, options in (
            (CUDA, own),
            ((CUDA, {}), own),
            ((CUDA, {"device_id": 1, "use_tf32": 1}), {**own, "device_id": 1, "use_tf32": 1}),
        ):
            asked.clear()
            with pytest.raises(MissingBackend, match="could not start"):
                make(path, providers=[given, (CPU, {})]).open()
            assert asked == [[(CUDA, options), (CPU, {})]]

    def test_given_ones_are_used(self, path: Path) -> None:
        engine = make(path, providers=[(CPU, {})])
        with engine:
            assert engine.provider == CPU

    def test_one_that_is_not_compiled_in_is_refused(self, path: Path) -> None:
        with pytest.raises(MissingBackend, match=r"has no CUDAExecutionProvider in this installation.*onnxruntime-gpu"):
            make(path, providers=[CUDA]).open()

    def test_cuda_that_is_compiled_in_and_does_not_start(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.with_cuda_compiled_in(monkeypatch)
        with pytest.raises(MissingBackend, match="could not start CUDAExecutionProvider on this machine"):
            make(path, providers=[CUDA, CPU]).open()
        caplog.set_level(logging.INFO, "ebm_export")
        engine = make(path)
        with engine:
            assert engine.provider == CPU
        assert "onnxruntime runs on the CPU: backend 'onnxruntime' could not start CUDA" in caplog.text


class TestErrors:
    def test_unknown_option(self, path: Path) -> None:
        with pytest.raises(
            UsageError, match="backend 'onnxruntime' knows the options 'providers' and 'leave_out'; it got 'turbo'"
        ):
            make(path, turbo=True)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=r"there is no ONNX file .*absent\.onnx"):
            make(tmp_path / "absent.onnx").open()

    def test_broken_file(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(LoadError, match=r"onnxruntime cannot load score\.fp32\.onnx: .*Protobuf parsing failed"):
            make(path).open()

    def test_missing_package(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = open_engine("onnxruntime", path, precision="fp32")
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingBackend, match="the package onnxruntime is not installed: pip install"):
            engine.open()

    def test_a_broken_install_shows_its_own_error(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "onnxruntime.py").write_text("import a_package_that_is_gone")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "onnxruntime")
        with pytest.raises(ModuleNotFoundError, match="a_package_that_is_gone"):
            make(path).open()

    def test_unknown_backend(self, path: Path) -> None:
        with pytest.raises(UsageError, match="backend: expected one of tensorrt, openvino, onnxruntime, got 'tvm'"):
            open_engine("tvm", path, precision="fp32")
        with pytest.raises(UsageError, match="backend: expected one of"):
            available("tvm")
