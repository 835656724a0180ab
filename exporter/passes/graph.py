"""What passes ask of a graph and do to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..lowering.lower import ORIGIN

__all__ = ["content", "dims", "insert", "replace", "sole_user", "stored"]


def content(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None for anything computed."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def dims(value: ir.Value | None) -> tuple[int | str, ...] | None:
    """A value's shape with symbolic dimensions as their names, or None where it is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)


def sole_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value that is no graph output, else None."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def insert(
    before: ir.Node,
    kind: str,
    inputs: Sequence[ir.Value | None],
    *,
    like: ir.Value,
    name: str,
    shape: Any = None,
    **attributes: Any,
) -> ir.Value:
    """Puts a new node before another one; its output has the type of `like`, and its shape unless one is given.

    The new node comes from the same place in the user's model as the other one.
    """
    node = ir.node(kind, list(inputs), attributes, name=name)
    if ORIGIN in before.metadata_props:
        node.metadata_props[ORIGIN] = before.metadata_props[ORIGIN]
    out = node.outputs[0]
    out.name, out.type = name, like.type
    out.shape = ir.Shape(list(like.shape or ())) if shape is None else ir.Shape(shape)
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, node)
    return out


def replace(node: ir.Node, value: ir.Value) -> None:
    """Lets `value` take the place of a node's one output, and removes the node."""
    old = node.outputs[0]
    if old.is_graph_output():
        value.name = old.name
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def stored(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    """A new initializer; its name gets a number where it is taken."""
    unique, count = name, 1
    while unique in graph.initializers:
        unique, count = f"{name}_{count}", count + 1
    value = ir.val(unique, const_value=ir.tensor(array, name=unique))
    value.dtype = ir.DataType.from_numpy(array.dtype)
    value.shape = ir.Shape(array.shape)
    graph.register_initializer(value)
    return value
