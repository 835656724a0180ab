"""What an engine says of the layers of a graph that was quantized elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.calibration.compare import compare
from ebm_export.calibration.executed_layers import executed_layers, note_not_int8
from ebm_export.calibration.plain_score import PlainScore
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.int8_said import int8_said
from ebm_export.runtime.split_engine import SplitEngine

from .test_compare import engine, options, two_engines

INPUTS = {"x": np.ones((2, 3), np.float32), "grad_scale": np.ones(2, np.float32)}


def half_quantized(path: Path, *, plain: bool = False) -> Path:
    """0.5 * |x|^2, whose energy goes through a product in INT8 and whose gradient through one in float32.

    Args:
        path: of the file.
        plain: gives the gradient itself, without the input grad_scale.
    """
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=1),
        node("MatMul", ["d", "v"], ["y"], name="coarse"),
        node("Mul", ["y", "y"], ["square"]),
        node("ReduceSum", ["square", "axis"], ["sum"], keepdims=0),
        node("Mul", ["sum", "half"], ["energy"]),
        node("MatMul", ["x", "one"], ["straight"], name="fine"),
        node("Unsqueeze", ["grad_scale", "axis"], ["scale"]),
        node("Mul", ["straight", "scale"], ["grad"]),
    ]
    constants = {
        "s": np.float32(6 / 127),
        "z": np.int8(0),
        "w": (127 * np.eye(3)).astype(np.int8),
        "ws": np.full(3, 1 / 127, np.float32),
        "wz": np.zeros(3, np.int8),
        "one": np.eye(3, dtype=np.float32),
        "axis": np.array([1], np.int64),
        "half": np.float32(0.5),
    }
    port = helper.make_tensor_value_info
    inputs = [port("x", TensorProto.FLOAT, ["B", 3]), port("grad_scale", TensorProto.FLOAT, ["B"])]
    if plain:
        inputs = inputs[:1]
        nodes[-3:] = [node("MatMul", ["x", "one"], ["grad"], name="fine")]
    graph = helper.make_graph(
        nodes,
        "score",
        inputs,
        [port("energy", TensorProto.FLOAT, ["B"]), port("grad", TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_openvino_tells_which_layers_it_runs_in_int8(tmp_path: Path) -> None:
    with OpenVinoEngine(half_quantized(tmp_path / "a.onnx"), precision="external", threads=1) as opened:
        with pytest.raises(RuntimeError, match="known after the first run"):
            executed_layers(opened, "bundle", "a")
        opened.run(INPUTS)
        found = executed_layers(opened, "bundle", "a")
    assert found is not None
    assert {node.name: node.precision for node in found.nodes} == {"coarse": "int8", "fine": "fp32"}
    assert found.counts == {"int8": 1, "fp32": 1}
    assert (
        int8_said("OpenVINO", found.counts["int8"], len(found.nodes))
        == "OpenVINO runs 1 of 2 convolutions and matrix products in INT8"
    )


def test_so_it_does_behind_a_prologue_and_without_a_scale(tmp_path: Path) -> None:
    prologue = OnnxRuntimeEngine(half_quantized(tmp_path / "first.onnx"), precision="fp32", threads=1)
    inner = OpenVinoEngine(half_quantized(tmp_path / "a.onnx", plain=True), precision="external", threads=1)
    engine = PlainScore(inner)
    assert engine.parts == (inner,) and engine.cpu_threads == 1
    split = SplitEngine(prologue, engine, [])
    with inner:
        engine.run(INPUTS)
        for one in (engine, split):
            found = executed_layers(one, "bundle", "a")
            assert found is not None and found.counts == {"int8": 1, "fp32": 1}


def test_products_that_would_overflow_are_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebm_export.runtime.backends.openvino.saturates", lambda: True)
    with OpenVinoEngine(half_quantized(tmp_path / "a.onnx"), precision="external", threads=1) as opened:
        opened.run(INPUTS)
        found = executed_layers(opened, "bundle", "a")
        assert opened.int8_layers == (0, 2)
    assert found is not None and found.counts == {"fp32": 2}


def entries(*names: str, precision: str = "int8") -> list[dict[str, Any]]:
    return [{"name": name, "precision": precision} for name in names]


def test_a_layer_in_int8_that_runs_in_float32_is_named_and_no_other(tmp_path: Path) -> None:
    with OpenVinoEngine(half_quantized(tmp_path / "a.onnx"), precision="int8", threads=1) as opened:
        opened.run(INPUTS)
        said = entries("coarse", "fine", "untold") + entries("fine", precision="fp32")
        assert note_not_int8(opened, said) == "fine is INT8 in the file and runs in fp32"
        assert [entry.get("runs") for entry in said] == [None, "fp32", None, None]
        assert note_not_int8(opened, entries("coarse")) == ""
        for count, named in ((2, "fine and fine"), (3, "fine, fine and fine"), (5, "fine, fine and 3 more")):
            found = note_not_int8(opened, entries(*["fine"] * count))
            assert found == f"{named} are INT8 in the file and run in fp32"


def test_a_node_of_two_layers_in_two_precisions_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = [
        ("a/made", "Convolution", "i8", ["a", "a/Relu"]),
        ("b", "Convolution", "f32", ["b", "a/Relu"]),
        ("c", "Eltwise", "f32", ["c"]),
    ]
    monkeypatch.setattr(OpenVinoEngine, "_executed", lambda self, asked: ran)
    assert OpenVinoEngine(Path("a.xml"), precision="int8").arithmetic_nodes == {"a": "i8", "b": "f32"}


def test_layers_whose_products_would_overflow_are_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebm_export.runtime.backends.openvino.saturates", lambda: True)
    with OpenVinoEngine(half_quantized(tmp_path / "a.onnx"), precision="int8", threads=1) as opened:
        opened.run(INPUTS)
        assert note_not_int8(opened, entries("coarse")) == "coarse is INT8 in the file and runs in fp32"


def test_other_libraries_do_not_tell(tmp_path: Path) -> None:
    with OnnxRuntimeEngine(half_quantized(tmp_path / "a.onnx"), precision="external", threads=1) as opened:
        opened.run(INPUTS)
        assert executed_layers(opened, "bundle", "a") is None


@pytest.mark.parametrize("form", ["", ", of dE/dx without grad_scale"])
def test_a_comparison_shows_the_layers_of_graphs_made_elsewhere(tmp_path: Path, form: str) -> None:
    bundle, graph = two_engines(tmp_path / "a.ebm"), half_quantized(tmp_path / "quantized.onnx", plain=bool(form))
    found = compare(options(bundle, candidates=[f"nncf=openvino:{graph}", f"ort={graph}"]))
    said = "OpenVINO runs 1 of 2 convolutions and matrix products in INT8"
    assert engine(found, "nncf").note == f"a score graph made elsewhere{form}: quantized.onnx; {said}"
    assert engine(found, "ort").note == f"a score graph made elsewhere{form}: quantized.onnx"
    assert [(layers.bundle, layers.artifact) for layers in found.layers] == [("a", "nncf, quantized.onnx")]
