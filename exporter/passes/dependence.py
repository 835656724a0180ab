"""Which values of a score graph change along a chain."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["VARYING_INPUTS", "varying"]

VARYING_INPUTS = ("x", "grad_scale")
"""Inputs that change from step to step; the conditioning inputs do not."""


def varying(graph: ir.Graph) -> set[ir.Value]:
    """Returns the values that depend on an input which changes from step to step."""
    found = {value for value in graph.inputs if value.name in VARYING_INPUTS}
    for node in graph:
        if any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found
