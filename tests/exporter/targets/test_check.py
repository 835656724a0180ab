"""What ONNX's checker refuses is one sentence, with the place in the user's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from ebm_export.exporter.lowering.lower import ORIGIN
from ebm_export.exporter.targets import target
from ebm_export.runtime.errors import EbmExportError, UnsupportedOperation

BATCH = (1, 4, 8)
REFUSING = ["onnx", "onnxruntime"]


def from_line(node: onnx.NodeProto) -> None:
    node.name = "act/node"
    node.metadata_props.add(key=ORIGIN, value="aten.sigmoid.default, in module 'act'")


@pytest.mark.parametrize("name", REFUSING)
def test_an_operation_that_onnx_lacks(name: str, tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    graph.graph.node[2].op_type = "Sigmoid4711"
    from_line(graph.graph.node[2])
    with pytest.raises(
        UnsupportedOperation,
        match="made a fp32 score graph that is not valid ONNX, which is a mistake of its own: Sigmoid4711 node "
        "'act/node': No Op registered for Sigmoid4711 with domain_version of 22; it stands for aten.sigmoid.default, "
        f"in module 'act'; rewrite that line with other operations, or leave the target {name} out",
    ):
        target(name).write(graph, tmp_path, precision="fp32", batch=BATCH)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", REFUSING)
def test_a_type_that_an_operation_does_not_take(name: str, tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    graph.graph.node[0].attribute[0].i = onnx.TensorProto.BOOL
    from_line(graph.graph.node[1])
    with pytest.raises(UnsupportedOperation, match=r"Conv node 'act/node': X .* unsupported type: tensor\(bool\); it "):
        target(name).write(graph, tmp_path, precision="fp32", batch=BATCH)


@pytest.mark.parametrize("name", REFUSING)
def test_a_shape_that_does_not_fit(name: str, tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    graph.graph.output[1].type.tensor_type.shape.dim[2].dim_value = 5
    from_line(graph.graph.node[-1])
    with pytest.raises(
        UnsupportedOperation, match=r"Cast node 'act/node': Inferred shape .* \(6\) vs \(5\); it stands"
    ):
        target(name).write(graph, tmp_path, precision="fp32", batch=BATCH)


@pytest.mark.parametrize("name", REFUSING)
def test_a_value_that_nothing_makes(name: str, tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    graph.graph.node[4].input[0] = "nobody"
    from_line(graph.graph.node[4])
    with pytest.raises(UnsupportedOperation, match="ReduceSum node 'act/node': Nodes in a graph .*'nobody'"):
        target(name).write(graph, tmp_path, precision="fp32", batch=BATCH)


@pytest.mark.parametrize("name", REFUSING)
def test_a_graph_of_which_no_node_is_wrong(name: str, tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    del graph.opset_import[:]
    with pytest.raises(
        EbmExportError, match="is not valid ONNX, which is a mistake of its own: .*opset_import"
    ) as caught:
        target(name).write(graph, tmp_path, precision="fp32", batch=BATCH)
    assert caught.value.exit_code == 1
