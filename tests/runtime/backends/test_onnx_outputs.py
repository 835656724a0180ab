"""Graphs without some of their outputs, against what the package onnx reads in them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.runtime.backends.onnx_outputs import without_outputs


def port(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])


def branch(name: str, reads: str) -> onnx.GraphProto:
    """A graph inside a node, which reads a number from around it."""
    return helper.make_graph([helper.make_node("Neg", [reads], [name])], "inside", [], [port(name)])


def chosen(*reads: str) -> onnx.ModelProto:
    """x -> a -> b -> c, a -> d, and e is one of two branches that read `reads`."""
    nodes = [
        helper.make_node("Mul", ["x", "weight"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Abs", ["a"], ["d"]),
        helper.make_node(
            "If",
            ["which"],
            ["e"],
            then_branch=branch("t", reads[0]),
            else_branch=branch("f", reads[1]),
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "outer",
        [port("x"), helper.make_tensor_value_info("which", TensorProto.BOOL, [])],
        [port("c"), port("d"), port("e")],
        [numpy_helper.from_array(np.arange(300, dtype=np.float32)[:3], "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    return model


def pruned(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    found = onnx.load_from_string(without_outputs(model.SerializeToString(), names))
    onnx.checker.check_model(found, full_check=True)
    return found


def operations(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output]


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (("c",), ["a", "d", "e"]),
        (("d",), ["a", "b", "c", "e"]),
        (("c", "e"), ["a", "d"]),
        (("nothing",), ["a", "b", "c", "d", "e"]),
    ],
)
def test_what_only_they_need_goes_with_them(names: tuple[str, ...], left: list[str]) -> None:
    model = chosen("x", "x")
    found = pruned(model, *names)
    assert operations(found) == left
    assert [output.name for output in found.graph.output] == [name for name in "cde" if name not in names]
    assert found.graph.input == model.graph.input and found.graph.initializer == model.graph.initializer


@pytest.mark.parametrize("reads", [("b", "x"), ("x", "b")])
def test_what_a_graph_inside_a_node_reads_stays(reads: tuple[str, str]) -> None:
    assert operations(pruned(chosen(*reads), "c", "d")) == ["a", "b", "e"]


def test_nothing_else_changes() -> None:
    model = chosen("x", "b")
    model.metadata_props.add(key="key", value="value" * 100)
    found = pruned(model, "c")
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    expected.graph.node.remove(model.graph.node[2])
    expected.graph.output.remove(model.graph.output[0])
    assert found == expected


@pytest.mark.parametrize("model", [b"\xff", b"\x3a\x05ab", b"\x0f", b"\x3a\x02\x0a\x7f"])
def test_other_bytes_are_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match="no protobuf message"):
        without_outputs(model, ["c"])
