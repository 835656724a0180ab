from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.calibration.metrics.features import OnnxFeatures, score_graph_features
from ebm_export.runtime.errors import LoadError, UsageError

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)


def save(path: Path, nodes, inputs: dict[str, list], outputs: dict[str, list], **constants: np.ndarray) -> Path:
    def values(ports):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports.items()]

    arrays = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Two outputs: x @ W, and x as a map [B, 1, 3, 1]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["rows"]),
        helper.make_node("Reshape", ["x", "shape"], ["map"]),
    ]
    outputs = {"rows": ["B", 2], "map": ["B", 1, 3, 1]}
    return save(tmp_path / "n.onnx", nodes, {"x": ["B", 3]}, outputs, w=WEIGHT, shape=np.array([-1, 1, 3, 1]))


@pytest.fixture
def score_graph(tmp_path: Path) -> Path:
    """h = x @ W; energy = sum of tanh(h) @ v, times a condition; the gradient does not matter here."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["features"]),
        helper.make_node("MatMul", ["features", "v"], ["column"]),
        helper.make_node("Mul", ["column", "c"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axis"], ["energy"], keepdims=0),
        helper.make_node("Mul", ["x", "x"], ["grad"]),
    ]
    inputs = {"x": ["B", 3], "c": ["B", 1], "grad_scale": ["B"]}
    outputs = {"energy": ["B"], "grad": ["B", 3]}
    v = np.ones((2, 1), np.float32)
    return save(tmp_path / "s.onnx", nodes, inputs, outputs, w=WEIGHT, v=v, axis=np.array([1]))


X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class TestOnnxFeatures:
    def test_the_first_output_or_the_one_named(self, network: Path) -> None:
        np.testing.assert_allclose(OnnxFeatures(network)(X), X @ WEIGHT, rtol=1e-5)
        maps = OnnxFeatures(network, output="map")(X)
        np.testing.assert_allclose(maps, X.mean(axis=1, keepdims=True), rtol=1e-5)

    def test_prepare_comes_first(self, network: Path) -> None:
        found = OnnxFeatures(network, prepare=lambda x: x[:, 0] * 2.0)(X[:, None])
        np.testing.assert_allclose(found, 2.0 * X @ WEIGHT, rtol=1e-5)

    def test_refusals(self, network: Path, score_graph: Path, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match=r"does not take samples of \[5\].*inside of it, or in Python with prepare="
        ):
            OnnxFeatures(network)(np.ones((2, 5), np.float32))
        with pytest.raises(UsageError, match="'other' is none of its outputs rows, map"):
            OnnxFeatures(network, output="other")
        with pytest.raises(UsageError, match="'y' is none of its inputs x"):
            OnnxFeatures(network, inputs={"y": X})
        with pytest.raises(UsageError, match="expected one input for the samples, got x, c, grad_scale"):
            OnnxFeatures(score_graph)
        with pytest.raises(LoadError, match="there is no feature network"):
            OnnxFeatures(tmp_path / "none.onnx")
        (tmp_path / "bad.onnx").write_bytes(b"no model")
        with pytest.raises(LoadError, match="onnxruntime cannot load"):
            OnnxFeatures(tmp_path / "bad.onnx")

    def test_one_row_per_sample(self, score_graph: Path) -> None:
        inputs = {"c": np.ones((1, 1), np.float32), "grad_scale": np.ones(1, np.float32)}
        features = OnnxFeatures(score_graph, inputs=inputs)
        with pytest.raises(UsageError, match=r"output 'energy': expected \[4, D\], got \[4\]"):
            features(X)


class TestScoreGraphFeatures:
    def test_the_input_of_the_last_learned_layer(self, score_graph: Path) -> None:
        features = score_graph_features(score_graph, cond={"c": np.ones((1, 1), np.float32)})
        np.testing.assert_allclose(features(X), np.tanh(X @ WEIGHT), rtol=1e-5)

    def test_a_tensor_by_name(self, score_graph: Path) -> None:
        features = score_graph_features(score_graph, tensor="h", cond={"c": np.ones((1, 1), np.float32)})
        np.testing.assert_allclose(features(X), X @ WEIGHT, rtol=1e-5)

    def test_refusals(self, score_graph: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="it has no tensor 'z' of its own"):
            score_graph_features(score_graph, tensor="z")
        with pytest.raises(LoadError, match="there is no score graph"):
            score_graph_features(tmp_path / "none.onnx")
        nodes = [helper.make_node("ReduceSum", ["x", "axis"], ["energy"], keepdims=0)]
        plain = save(tmp_path / "p.onnx", nodes, {"x": ["B", 3]}, {"energy": ["B"]}, axis=np.array([1]))
        with pytest.raises(UsageError, match="no learned layer leads to its energy; name a tensor"):
            score_graph_features(plain)
