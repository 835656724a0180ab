"""OpenVINO runs what the graph says, in the type that it says, at whatever batch size comes."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.runtime.backends.openvino import OpenVinoEngine, available
from ebm_export.runtime.errors import LoadError, MissingBackend, UsageError

TYPES = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((16, 2, 3, 3)).astype(np.float32)
BIAS = RNG.standard_normal(16).astype(np.float32)
PERCEPTRON = (RNG.standard_normal((5, 8)), RNG.standard_normal((8, 8)))
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def score_graph(precision: str) -> onnx.ModelProto:
    """E(x) = gate * sum(sigmoid(conv(x))) and its gradient, x [B, 2, 6, 6], gate [B] int64; float32 sum."""
    code, dtype = TYPES[precision]
    node = helper.make_node
    constants = {
        "weight": WEIGHT.astype(dtype),
        "flipped": np.ascontiguousarray(WEIGHT[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)).astype(dtype),
        "bias": BIAS.astype(dtype),
        "one": np.ones((), dtype),
        "axes": np.array([1, 2, 3], np.int64),
        "per_sample": np.array([-1, 1, 1, 1], np.int64),
    }
    nodes = [
        node("Cast", ["x"], ["x_low"], to=code),
        node("Conv", ["x_low", "weight", "bias"], ["h"], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["h"], ["s"]),
        node("Cast", ["s"], ["s_wide"], to=TensorProto.FLOAT),
        node("ReduceSum", ["s_wide", "axes"], ["sum"], keepdims=0),
        node("Cast", ["gate"], ["factor"], to=TensorProto.FLOAT),
        node("Mul", ["sum", "factor"], ["energy"]),
        node("Mul", ["factor", "grad_scale"], ["cotangent"]),
        node("Reshape", ["cotangent", "per_sample"], ["cotangent_4d"]),
        node("Cast", ["cotangent_4d"], ["cotangent_low"], to=code),
        node("Sub", ["one", "s"], ["one_minus_s"]),
        node("Mul", ["s", "one_minus_s"], ["slope"]),
        node("Mul", ["slope", "cotangent_low"], ["grad_h"]),
        node("Conv", ["grad_h", "flipped"], ["grad_x"], pads=[1, 1, 1, 1]),
        node("Cast", ["grad_x"], ["grad"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "score",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 2, 6, 6]),
            helper.make_tensor_value_info("gate", TensorProto.INT64, ["B"]),
            helper.make_tensor_value_info("grad_scale", TensorProto.FLOAT, ["B"]),
        ],
        [
            helper.make_tensor_value_info("energy", TensorProto.FLOAT, ["B"]),
            helper.make_tensor_value_info("grad", TensorProto.FLOAT, ["B", 2, 6, 6]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def batch_of(size: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((size, 2, 6, 6)).astype(np.float32),
        "gate": rng.integers(1, 3, size),
        "grad_scale": rng.uniform(0.5, 2, size).astype(np.float32),
    }


def gradient(energy: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """dE/dx [B, *S] in float64 of an analytic energy [N, *S] -> [N], by complex steps (Squire and Trapp, 1998).

    Nothing is subtracted, so the step can be so small that float64's own rounding is all that remains.
    """
    step = 1e-30
    directions = step * np.eye(x[0].size).reshape(-1, *x.shape[1:])
    return np.stack([energy(row + 1j * directions).imag.reshape(row.shape) / step for row in x.astype(np.float64)])


def sum_of_sigmoids(x: np.ndarray) -> np.ndarray:
    """The energy of `score_graph` without its gate: [N, 2, 6, 6] complex or real -> [N]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # [N, 2, 6, 6, 3, 3]
    h = np.tensordot(windows, WEIGHT.astype(np.float64), axes=((1, 4, 5), (1, 2, 3))) + BIAS  # [N, 6, 6, 16]
    return (1 / (1 + np.exp(-h))).sum(axis=(1, 2, 3))


def reference(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Energy [B] and grad_scale * dE/dx [B, 2, 6, 6] in float64."""
    energy = inputs["gate"] * sum_of_sigmoids(inputs["x"].astype(np.float64))
    cotangent = (inputs["gate"] * inputs["grad_scale"].astype(np.float64)).reshape(-1, 1, 1, 1)
    return energy, cotangent * gradient(sum_of_sigmoids, inputs["x"])


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest over the samples of |got - expected| / |expected|."""
    size = len(got)
    difference = np.linalg.norm((got - expected).reshape(size, -1), axis=1)
    return float(np.max(difference / np.linalg.norm(expected.reshape(size, -1), axis=1)))


@pytest.fixture(params=list(TYPES))
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write(folder: Path, precision: str) -> Path:
    onnx.save(score_graph(precision), folder / f"{precision}.onnx")
    model = openvino.Core().read_model(folder / f"{precision}.onnx")
    openvino.save_model(model, folder / f"{precision}.xml", compress_to_fp16=False)
    return folder / f"{precision}.xml"


class TestRun:
    def test_is_right_when_the_batch_size_changes_from_call_to_call(self, tmp_path: Path, precision: str) -> None:
        # Half a unit in the last place of 24, 11 and 8 bits, times the dozen roundings on the way.
        bound = {"fp32": 1e-6, "fp16": 6e-3, "bf16": 5e-2}[precision]
        with OpenVinoEngine(write(tmp_path, precision), precision=precision, threads=1) as engine:
            for seed, size in enumerate((1, 8, 3, 8, 1, 2, 5, 3)):
                inputs = batch_of(size, seed)
                result = engine.run(inputs)
                energy, grad = reference(inputs)
                assert result["energy"].dtype == result["grad"].dtype == np.float32
                assert relative_error(result["energy"][:, None], energy[:, None]) < bound
                assert relative_error(result["grad"], grad) < bound

    def test_takes_read_only_arrays(self, tmp_path: Path) -> None:
        inputs = batch_of(2)
        for array in inputs.values():
            array.flags.writeable = False
        with OpenVinoEngine(write(tmp_path, "fp32"), precision="fp32", threads=1) as engine:
            assert relative_error(engine.run(inputs)["grad"], reference(inputs)[1]) < 1e-6

    def test_reads_the_onnx_file_too(self, tmp_path: Path) -> None:
        inputs = batch_of(2)
        path = write(tmp_path, "fp32").with_suffix(".onnx")
        with OpenVinoEngine(path, precision="fp32", threads=1) as engine:
            assert relative_error(engine.run(inputs)["grad"], reference(inputs)[1]) < 1e-6

    def test_results_stay_readable_after_close(self, tmp_path: Path) -> None:
        inputs = batch_of(2)
        engine = OpenVinoEngine(write(tmp_path, "fp32"), precision="fp32", threads=1)
        with engine:
            grad = engine.run(inputs)["grad"]
        engine.close()
        assert relative_error(grad, reference(inputs)[1]) < 1e-6

    def test_a_closed_engine_says_so(self, tmp_path: Path) -> None:
        engine = OpenVinoEngine(write(tmp_path, "fp32"), precision="fp32", threads=1)
        with engine:
            engine.run(batch_of(1))
        with pytest.raises(RuntimeError, match="the engine is not open"):
            engine.run(batch_of(1))

    def test_a_call_allocates_no_array(self, tmp_path: Path) -> None:
        inputs = batch_of(2000)
        with OpenVinoEngine(write(tmp_path, "fp32"), precision="fp32", threads=1) as engine:
            for _ in range(3):
                engine.run(inputs)
            tracemalloc.start()
            for _ in range(5):
                engine.run(inputs)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < inputs["x"].nbytes / 20


def perceptron(precision: str) -> onnx.ModelProto:
    """E(x) = sum(h * sigmoid(h)), h = two layers of x [B, 5], and its gradient; SiLU after each layer."""
    number, dtype = TYPES[precision]
    text = """
        <ir_version: 10, opset_import: ["" : 22]>
        score (float[B, 5] x, float[B] grad_scale) => (float[B] energy, float[B, 5] grad) {
            x_low = Cast <to: int = LOW> (x)
            h1 = MatMul (x_low, w1)  s1 = Sigmoid (h1)  y1 = Mul (h1, s1)
            h2 = MatMul (y1, w2)  s2 = Sigmoid (h2)  y2 = Mul (h2, s2)
            y2_wide = Cast <to: int = 1> (y2)
            energy = ReduceSum <keepdims: int = 0> (y2_wide, axes)
            cotangent = Unsqueeze (grad_scale, axes)  g = Cast <to: int = LOW> (cotangent)
            r2 = Sub (one, s2)  t2 = Mul (h2, r2)  u2 = Add (t2, one)  d2 = Mul (s2, u2)  g2 = Mul (g, d2)
            p1 = MatMul (g2, w2t)
            r1 = Sub (one, s1)  t1 = Mul (h1, r1)  u1 = Add (t1, one)  d1 = Mul (s1, u1)  g1 = Mul (p1, d1)
            grad_low = MatMul (g1, w1t)  grad = Cast <to: int = 1> (grad_low)
        }"""
    w1, w2 = PERCEPTRON
    constants = {"w1": w1, "w2": w2, "w1t": w1.T.copy(), "w2t": w2.T.copy(), "one": np.ones(())}
    model = onnx.parser.parse_model(text.replace("LOW", str(number)))
    tensors = [numpy_helper.from_array(array.astype(dtype), name) for name, array in constants.items()]
    model.graph.initializer.extend([*tensors, numpy_helper.from_array(np.array([1]), "axes")])
    return model


def test_a_perceptron_does_not_kill_the_process(tmp_path: Path, precision: str) -> None:
    # Compiling this at a fixed batch of 1 or 3 ends in a segmentation fault unless the engine avoids it.
    onnx.save(perceptron(precision), tmp_path / "perceptron.onnx")
    w1, w2 = PERCEPTRON

    def silu(h: np.ndarray) -> np.ndarray:
        return h / (1 + np.exp(-h))

    with OpenVinoEngine(tmp_path / "perceptron.onnx", precision=precision, threads=1) as engine:
        for size in (1, 3, 8, 64):
            x = np.random.default_rng(size).standard_normal((size, 5)).astype(np.float32)
            grad = engine.run({"x": x, "grad_scale": np.full(size, 2, np.float32)})["grad"]
            wanted = 2 * gradient(lambda x: silu(silu(x @ w1) @ w2).sum(axis=1), x)
            bound = {"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1}[precision]
            assert np.linalg.norm(grad - wanted) < bound * np.linalg.norm(wanted)


class TestExecutedPrecision:
    def test_follows_the_types_of_the_graph(self, tmp_path: Path, precision: str) -> None:
        expected = {"fp32": {"f32"}, "fp16": {"f32", "f16"}, "bf16": {"bf16" if HAS_BF16 else "f32"}}[precision]
        with OpenVinoEngine(write(tmp_path, precision), precision=precision, threads=1) as engine:
            engine.run(batch_of(2))
            assert engine.executed_precision in expected

    def test_shows_what_a_hint_turned_into(self, tmp_path: Path) -> None:
        options = {"inference_precision": "bf16"}
        with OpenVinoEngine(write(tmp_path, "fp32"), precision="fp32", threads=1, options=options) as engine:
            engine.run(batch_of(2))
            assert engine.executed_precision == ("bf16" if HAS_BF16 else "f32")

    def test_is_unknown_before_the_first_run(self, tmp_path: Path) -> None:
        with (
            OpenVinoEngine(write(tmp_path, "fp32"), precision="fp32", threads=1) as engine,
            pytest.raises(RuntimeError, match="known after the first run"),
        ):
            _ = engine.executed_precision

    def test_a_float_graph_has_no_layer_in_int8(self, tmp_path: Path, precision: str) -> None:
        with OpenVinoEngine(write(tmp_path, precision), precision=precision, threads=1) as engine:
            with pytest.raises(RuntimeError, match="int8_layers is known after the first run"):
                _ = engine.int8_layers
            engine.run(batch_of(2))
            low, total = engine.int8_layers
            assert low == 0
            assert total > 0


class TestErrors:
    def test_unknown_option(self) -> None:
        with pytest.raises(
            UsageError, match=r"knows the options 'inference_precision' and 'leave_out'; it got 'streams'"
        ):
            OpenVinoEngine(Path("x.xml"), precision="fp32", options={"streams": 2})

    def test_unknown_precision(self) -> None:
        with pytest.raises(UsageError, match=r"is f32, bf16 or f16; it got 'int8'"):
            OpenVinoEngine(Path("x.xml"), precision="fp32", options={"inference_precision": "int8"})

    @pytest.mark.parametrize("content", [None, b"no model"])
    def test_a_file_that_is_missing_or_broken(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "score.fp32.openvino.xml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(LoadError, match=r"OpenVINO cannot read score\.fp32\.openvino\.xml: "):
            OpenVinoEngine(path, precision="fp32").open()

    def test_openvino_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(MissingBackend, match=r"backend 'openvino' needs .* pip install 'ebm-export\[openvino\]'"):
            OpenVinoEngine(Path("x.xml"), precision="fp32").open()


def test_available() -> None:
    assert available() is None
