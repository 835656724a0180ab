"""Takes tensors without elements out of a traced graph."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from .batch import BatchSize
from .folding import remove_dead

__all__ = ["replace_empty"]

aten = torch.ops.aten


def replace_empty(graph: Graph) -> None:
    """Writes what is made of empty tensors alone, such as their sum or their padded gradient, as the number it is filled with, in place.

    A tensor that nothing is written into stays as it was. An engine need not take a dimension of zero: OpenVINO ends at the padding
    of one. What has no elements itself stays, and is dead once nothing else is made of it.

    Args:
        graph: functional ATen, with shapes in `meta`.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or not _is_full(node) or not node.all_input_nodes:
            continue
        if node.target is aten.slice_scatter.default and _is_empty(node.args[1]):
            node.replace_all_uses_with(node.args[0])
        elif all(_is_empty(source) for source in node.all_input_nodes):
            fill = _fill(node)
            if fill is not None:
                _replace(graph, node, fill)
    remove_dead(graph)


def _is_empty(node: Node) -> bool:
    """Whether it has no elements at any batch size: rows past those of the traced batch are there in a larger one."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and any(isinstance(size, int) and size == 0 for size in node.meta["shape"])


def _is_full(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.numel() > 0


def _fill(node: Node) -> Any:
    """The number that every element is; None where they differ."""
    given = torch.fx.map_arg(
        (node.args, node.kwargs), lambda n: torch.empty(n.meta["val"].shape, dtype=n.meta["val"].dtype)
    )
    with torch.no_grad():
        elements = node.target(*given[0], **given[1]).flatten()  # type: ignore[operator]
    same = bool((elements == elements[0]).all()) or bool(elements.isnan().all())
    return elements[0].item() if same else None


def _replace(graph: Graph, node: Node, fill: Any) -> None:
    value, shape = node.meta["val"], node.meta["shape"]
    with graph.inserting_before(node):
        made = graph.call_function(aten.full.default, (list(value.shape), fill), {"dtype": value.dtype})
    # The sizes are the first of the flat arguments, so their places are those of the dimensions.
    made.meta = {**node.meta, "batched": {i: size for i, size in enumerate(shape) if isinstance(size, BatchSize)}}
    node.replace_all_uses_with(made)
    graph.erase_node(node)
