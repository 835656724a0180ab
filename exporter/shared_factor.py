"""Products of many matrices with one and the same, as products with that one."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

__all__ = ["share_factors"]

aten = torch.ops.aten


def share_factors(graph: Graph) -> None:
    """Writes bmm(a, b), where b repeats one matrix, as matmul(a, that matrix), in place.

    PyTorch's linear layers repeat their weights where the input does not lie as they want it, as in an attention over batch-first
    tokens. A repeated weight is copied when it is folded, computed with as if it were many, and not known for a layer.

    Args:
        graph: functional ATen, with shapes in `meta`.
    """
    for node in list(graph.nodes):
        if node.target is not aten.bmm.default:
            continue
        left, right = node.args
        with graph.inserting_before(node):
            matrix = _matrix(graph, right)
            if matrix is None:
                continue
            product = graph.call_function(aten.matmul.default, (left, matrix))
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)


def _matrix(graph: Graph, value: Any) -> Node | None:
    """The matrix that [N, K, M] repeats, [K, M], or None where it is not one."""
    if value.target is aten.expand.default:
        source: Node = value.args[0]
        shape = tuple(source.meta["shape"])
        if shape == tuple(value.meta["shape"])[1:]:
            return source
        return None if shape != (1, *tuple(value.meta["shape"])[1:]) else _made(graph, aten.squeeze.dim, source, 0)
    swaps = value.target is aten.transpose.int and {axis % 3 for axis in value.args[1:]} == {1, 2}
    swaps |= value.target is aten.permute.default and [axis % 3 for axis in value.args[1]] == [0, 2, 1]
    if not swaps:
        return None
    matrix = _matrix(graph, value.args[0])
    return None if matrix is None else _made(graph, aten.permute.default, matrix, [1, 0])


def _made(graph: Graph, target: Any, source: Node, argument: Any) -> Node:
    """A node that rearranges a matrix, described as `generalize` describes nodes."""
    made = graph.call_function(target, (source, argument))
    shape = tuple(source.meta["shape"])
    made.meta = {**source.meta, "batched": {}}  # which names the source's arguments
    made.meta["shape"] = shape[1:] if target is aten.squeeze.dim else shape[::-1]
    with torch.no_grad():
        made.meta["val"] = target(source.meta["val"], argument)
    return made
