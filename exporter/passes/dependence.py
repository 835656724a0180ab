"""Which values of a score graph change along a chain."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["VARYING_INPUTS", "is_batch_size", "varying"]

VARYING_INPUTS = ("x", "grad_scale")
"""Inputs that change from step to step; the conditioning inputs do not."""


def varying(graph: ir.Graph, *, batch_size: bool = True) -> set[ir.Value]:
    """Returns the values that depend on an input which changes from step to step.

    Args:
        graph: a score graph.
        batch_size: whether what depends on nothing but the number of samples in x is one of them.
    """
    found = {value for value in graph.inputs if value.name in VARYING_INPUTS}
    for node in graph:
        if not batch_size and is_batch_size(node):
            continue
        if any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found


def is_batch_size(node: ir.Node) -> bool:
    """Whether a node takes the number of samples of an input of the graph."""
    source = node.inputs[0] if node.op_type == "Shape" else None
    if source is None or not source.is_graph_input():
        return False
    return (node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)) == (0, 1)
