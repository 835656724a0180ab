"""8-bit layers with large numbers, which x86 CPUs without VNNI add in 16 bits and cut."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.backends.openvino_saturation import SAFE_WEIGHT

B, K, N = 3, 64, 8
ENGINES = {"onnxruntime": OnnxRuntimeEngine, "openvino": OpenVinoEngine}


def write(path: Path, largest: int, signed: bool, conv: bool) -> np.ndarray:
    """Writes y = Q(x) W with weights near the largest; returns W, [K, N]."""
    weights = np.random.default_rng(0).integers(largest - 20, largest + 1, (K, N)).astype(np.int8)
    low = np.int8 if signed else np.uint8
    constants = {
        "s": np.float32(1 / 127 if signed else 1 / 255),
        "z": low(0),
        "w": np.ascontiguousarray(weights.T).reshape(N, K, 1, 1) if conv else weights,
        "ws": np.full(N, 1 / 127, np.float32),
        "wz": np.zeros(N, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=0 if conv else 1),
        helper.make_node("Conv" if conv else "MatMul", ["d", "v"], ["y"]),
    ]
    shape = ["B", K, 4, 4] if conv else ["B", K]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", N, *shape[2:]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return weights


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("conv", [False, True], ids=["product", "convolution"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("largest", [SAFE_WEIGHT, 127])
def test_large_numbers_do_not_overflow(backend: str, conv: bool, signed: bool, largest: int, tmp_path: Path) -> None:
    """Without what the engines do about it, six of those with 127 were off by 40 to 91 % on a CPU with AVX2 alone."""
    path = tmp_path / "layer.onnx"
    weights = write(path, largest, signed, conv)
    steps = 127 if signed else 255
    x = np.random.default_rng(1).uniform(0.8, 1, (B, K, 4, 4) if conv else (B, K)).astype(np.float32)
    exact = np.einsum("bk...,kn->bn...", np.rint(x * steps) / steps, weights / 127)
    with ENGINES[backend](path, precision="int8", threads=1) as engine:
        found = engine.run({"x": x})["y"]
    np.testing.assert_allclose(found, exact, rtol=1e-3)


@pytest.mark.parametrize("largest", [SAFE_WEIGHT, 127])
@pytest.mark.parametrize("overflows", [False, True])
def test_openvino_says_so_where_it_computes_in_float32(
    largest: int, overflows: bool, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("ebm_export.runtime.backends.openvino.saturates", lambda: overflows)
    write(tmp_path / "layer.onnx", largest, True, False)
    with (
        caplog.at_level(logging.WARNING, "ebm_export"),
        OpenVinoEngine(tmp_path / "layer.onnx", precision="int8", threads=1) as engine,
    ):
        engine.run({"x": np.ones((B, K), np.float32)})
        assert engine.int8_layers == ((0, 1) if overflows and largest == 127 else (1, 1))
    assert ("8-bit products overflow" in caplog.text) == (overflows and largest == 127)
