"""BF16 graphs in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from ebm_export.runtime.backends.openvino_bf16 import in_float32

from .test_openvino import batch_of, perceptron, reference, score_graph

OF_WEIGHTS = 2.0**-8


def types_of(model: openvino.Model) -> set[str]:
    return {
        operation.get_output_element_type(index).get_type_name()
        for operation in model.get_ops()
        for index in range(operation.get_output_size())
    }


@pytest.mark.parametrize("saved", [False, True])
def test_only_its_weights_are_rounded(tmp_path: Path, saved: bool) -> None:
    """The file that OpenVINO saves holds the same in another form."""
    path = tmp_path / "m.onnx"
    onnx.save(score_graph("bf16"), path)
    core = openvino.Core()
    if saved:
        openvino.save_model(core.read_model(path), tmp_path / "m.xml", compress_to_fp16=False)
        path = tmp_path / "m.xml"
    model = core.read_model(path)
    assert "bf16" in types_of(model)
    in_float32(model)
    assert "bf16" not in types_of(model)
    inputs = batch_of(3)
    answer = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)
    energy, grad = reference(inputs)
    assert np.linalg.norm(answer["energy"] - energy) < OF_WEIGHTS * np.linalg.norm(energy)
    assert np.linalg.norm(answer["grad"] - grad) < OF_WEIGHTS * np.linalg.norm(grad)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_types_stay(tmp_path: Path, precision: str) -> None:
    onnx.save(perceptron(precision), tmp_path / "m.onnx")
    model = openvino.Core().read_model(tmp_path / "m.onnx")
    before = types_of(model)
    in_float32(model)
    assert types_of(model) == before
