"""Which whole numbers a conditioning input may hold, where it picks rows of a table."""

from __future__ import annotations

import torch
from torch.fx import Node

from .score_graph import ScoreGraph

__all__ = ["index_limits"]

aten = torch.ops.aten

_SAME_NUMBERS = {
    aten._to_copy.default,
    aten.clone.default,
    aten.expand.default,
    aten.permute.default,
    aten.reshape.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""Operations that keep all the numbers: the limits of one column are none of the others'."""


def index_limits(traced: ScoreGraph) -> dict[str, tuple[int, int]]:
    """Finds conditioning inputs that go straight into an embedding or an index.

    PyTorch refuses a number that is no row. Engines do not all do so: OpenVINO answers with some row or none.

    Returns:
        (lowest, highest) by graph input name; those of the smallest table where there are several. An embedding takes none below
        0, an index counts such ones from the end.
    """
    found: dict[str, tuple[int, int]] = {}
    for node in traced.graph.nodes:
        for index, low, high in _lookups(node):
            name = _input_behind(index)
            if name is not None:
                before = found.get(name, (low, high))
                found[name] = max(low, before[0]), min(high, before[1])
    return found


def _lookups(node: Node) -> list[tuple[Node, int, int]]:
    """(index, lowest, highest) of what an operation picks rows with."""
    if node.target == aten.embedding.default:
        table, index = node.args[:2]
        assert isinstance(table, Node) and isinstance(index, Node)
        rows = table.meta["shape"][0]
        return [(index, 0, rows - 1)] if isinstance(rows, int) else []
    if node.target == aten.index.Tensor:
        table, indices = node.args[:2]
        assert isinstance(table, Node) and isinstance(indices, (list, tuple))
        sizes = zip(indices, table.meta["shape"], strict=False)
        return [(index, -size, size - 1) for index, size in sizes if isinstance(index, Node) and isinstance(size, int)]
    return []


def _input_behind(node: Node) -> str | None:
    """Name of the graph input of whole numbers that a value consists of."""
    while node.op == "call_function" and node.target in _SAME_NUMBERS:
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    whole = node.op == "placeholder" and node.meta["val"].dtype == torch.int64
    return node.name.removeprefix("input_") if whole and node.name.startswith("input_") else None
