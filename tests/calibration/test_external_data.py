"""Which files a graph keeps its weights in, as the package onnx writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.calibration.external_data import external_data
from ebm_export.runtime.errors import LoadError


def kept_in(location: str, name: str = "weight") -> onnx.TensorProto:
    """Weights that lie in another file."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "graph", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])], weights)


def saved(path: Path, *weights: onnx.TensorProto, nodes: list[onnx.NodeProto] | None = None) -> Path:
    path.write_bytes(helper.make_model(graph_of(nodes or [], list(weights))).SerializeToString())
    return path


def put(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(16))
    return [folder / name for name in names]


def test_weights_in_the_graph_itself(tmp_path: Path) -> None:
    put(tmp_path, "graph.onnx.data")  # left over from another graph
    weight = numpy_helper.from_array(np.ones(4, np.float32), "weight")
    assert external_data(saved(tmp_path / "graph.onnx", weight)) == []


def test_any_name_and_each_file_once(tmp_path: Path) -> None:
    files = put(tmp_path, "a.bin", "deeper/b")
    weights = [kept_in(location, str(index)) for index, location in enumerate(("deeper/b", "a.bin", "deeper/b"))]
    assert external_data(saved(tmp_path / "graph.onnx", *weights)) == files


def test_weights_of_nodes_and_of_graphs_and_functions_inside(tmp_path: Path) -> None:
    files = put(tmp_path, "a", "b", "c", "d")
    nodes = [
        helper.make_node("Constant", [], ["y"], value=kept_in("a")),
        helper.make_node("If", ["which"], ["z"], then_branch=graph_of([], [kept_in("b")])),
    ]
    model = helper.make_model(graph_of(nodes, []))
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(kept_in("c"))
    model.graph.sparse_initializer.append(sparse)
    constant = helper.make_node("Constant", [], ["y"], value=kept_in("d"))
    model.functions.append(helper.make_function("own", "Made", [], ["y"], [constant], [helper.make_opsetid("", 20)]))
    onnx.save(model, tmp_path / "graph.onnx")
    assert external_data(tmp_path / "graph.onnx") == files


def test_a_place_that_is_said_of_weights_in_the_graph_means_nothing(tmp_path: Path) -> None:
    weight = kept_in("gone.bin")
    weight.data_location = TensorProto.DEFAULT
    assert external_data(saved(tmp_path / "graph.onnx", weight)) == []


@pytest.mark.parametrize("location", ["../weights.bin", "/tmp/weights.bin", "deeper/../../weights.bin"])
def test_a_place_outside_of_the_graphs_folder(location: str, tmp_path: Path) -> None:
    put(tmp_path, "weights.bin", "graph/other.bin")  # that there is such a file changes nothing
    path = saved(tmp_path / "graph" / "graph.onnx", kept_in(location))
    with pytest.raises(LoadError, match=f"in its own folder, as ONNX asks, and it looks for them in '{location}'"):
        external_data(path)


def test_a_file_that_was_left_behind(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no file .*weights.bin, which holds its weights; copy it there"):
        external_data(saved(tmp_path / "graph.onnx", kept_in("weights.bin")))


def test_no_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(
        LoadError, match=r"graph.onnx: expected an ONNX file: no protobuf message: wire type 6 at byte 0"
    ):
        external_data(path)
