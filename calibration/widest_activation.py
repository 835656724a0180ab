"""How wide a score graph is, which says how many samples of it a cache holds."""

from __future__ import annotations

import onnx_ir as ir

from .quantization.layers import changing, size_of_one

__all__ = ["widest_activation"]


def widest_activation(graph: ir.Graph) -> int:
    """Returns the numbers of one sample's largest value, of those that change from step to step.

    Args:
        graph: a score graph with the shapes of its values; those that have none do not count. What depends on conditions alone does not
            count either: it becomes a prologue, or is small.
    """
    values = [value for value in graph.inputs if value.name == "x"]
    values += [value for node in changing(graph) for value in node.outputs]
    return max(map(size_of_one, values))
