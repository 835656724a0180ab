from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ebm_export.calibration.feature_network import feature_network
from ebm_export.runtime.errors import LoadError, UsageError
from tests.runtime.tiny_bundle import quadratic_graph


def saved(folder: Path, op: str = "Relu", **attributes: object) -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], **attributes)],
        "features",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = folder / "features.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_features_are_rows(tmp_path: Path) -> None:
    x = np.arange(-12, 12, dtype=np.float32).reshape(4, 2, 3)
    found = feature_network(saved(tmp_path), (2, 3))(x)
    np.testing.assert_array_equal(found, np.maximum(x, 0).reshape(4, 6))


def test_another_shape_is_found_before_sampling(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot take x of shape \[B, 5\]"):
        feature_network(saved(tmp_path), (5,))


def test_one_answer_for_all_samples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gives \[1, 1, 1\] for 2 samples; expected one row each"):
        feature_network(saved(tmp_path, "ReduceSum"), (2, 3))


def test_several_inputs(tmp_path: Path) -> None:
    onnx.save(quadratic_graph(), tmp_path / "score.onnx")
    with pytest.raises(UsageError, match="has the inputs x, grad_scale; expected x alone"):
        feature_network(tmp_path / "score.onnx", (3,))


def test_no_file_and_no_graph(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no file .*gone.onnx; give an .onnx file, or pixels"):
        feature_network(tmp_path / "gone.onnx", (3,))
    (tmp_path / "bad.onnx").write_bytes(b"x")
    with pytest.raises(LoadError, match="onnxruntime cannot load .*bad.onnx"):
        feature_network(tmp_path / "bad.onnx", (3,))
