"""What an engine's library refuses, said in terms of the user's model."""

from __future__ import annotations

import onnx

from ...runtime.errors import UnsupportedOperation
from ..lowering.lower import ORIGIN

__all__ = ["placed"]


def placed(error: UnsupportedOperation, graph: onnx.ModelProto, target: str) -> UnsupportedOperation:
    """A library's refusal of an ONNX node, with the place in the user's model that the node comes from.

    Args:
        error: names the operator, and the node where the library does.
        graph: the score graph that the library was given.
        target: the target that a user can leave out.

    Returns:
        An error that names the operation, its module and its source line; all that come into question where the
        library does not say which node.
    """
    named = [node for node in graph.graph.node if error.node and error.node in (node.name, node.output[0])]
    nodes = named or [node for node in graph.graph.node if node.op_type == error.operator]
    origins = dict.fromkeys(pair.value for node in nodes for pair in node.metadata_props if pair.key == ORIGIN)
    places = " or ".join(origins) or "no one operation of the model"
    return UnsupportedOperation(
        f"{str(error).rstrip('.')}; it stands for {places}; rewrite that line with other operations, or leave the "
        f"target {target} out",
        operator=error.operator,
        node=error.node,
    )
