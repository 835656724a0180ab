"""Networks that look at samples: what they answer, and what is refused before any sample is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.calibration.sample_networks import OwnGraph, sample_networks
from ebm_export.runtime.errors import LoadError, UsageError

X = np.array([[2, 0, 0], [0, 3, 0], [-1, -2, 0], [0, 0, 1]], np.float32)


def linear(path: Path, weight: np.ndarray) -> Path:
    """x @ weight, from [B, D] to [B, K]."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "weight")],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def none_of_its_own() -> OwnGraph:
    raise AssertionError("only the model's own features need its graph")


def test_x_itself_and_clusters() -> None:
    found = sample_networks("pixels", None, none_of_its_own, (3,))
    assert found.features is None and found.classify is None


def test_features_and_classes_of_networks(tmp_path: Path) -> None:
    features, classes = linear(tmp_path / "f.onnx", np.ones((3, 2))), linear(tmp_path / "c.onnx", np.eye(3))
    found = sample_networks(str(features), classes, none_of_its_own, (3,))
    assert found.features is not None and found.classify is not None
    np.testing.assert_allclose(found.features(X), X.sum(1, keepdims=True).repeat(2, 1))
    assert found.classify(X).tolist() == [0, 1, 2, 2]


def test_what_is_kept_of_their_answers_is_of_these_files(tmp_path: Path) -> None:
    file = linear(tmp_path / "f.onnx", np.ones((3, 2)))
    first = sample_networks(str(file), None, none_of_its_own, (3,)).identity
    assert sample_networks(str(file), None, none_of_its_own, (3,)).identity == first
    linear(file, np.eye(3))
    assert sample_networks(str(file), None, none_of_its_own, (3,)).identity != first


def test_what_is_refused(tmp_path: Path) -> None:
    gone, one = tmp_path / "gone.onnx", linear(tmp_path / "one.onnx", np.ones((3, 1)))
    with pytest.raises(
        LoadError, match=r"--features: there is no feature network .*gone.onnx; expected pixels, model or"
    ):
        sample_networks(str(gone), None, none_of_its_own, (3,))
    with pytest.raises(LoadError, match=r"--classes: there is no classifier .*gone.onnx; expected FILE.onnx"):
        sample_networks("pixels", gone, none_of_its_own, (3,))
    with pytest.raises(UsageError, match="one.onnx answers with one number for a sample; expected one for each of two"):
        sample_networks("pixels", one, none_of_its_own, (3,))
    with pytest.raises(UsageError, match=r"the classifier does not take samples of \[5\]"):
        sample_networks("pixels", one, none_of_its_own, (5,))
