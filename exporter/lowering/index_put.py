"""Writing at places that are given as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch.fx import Node

from ..batch import Dim
from .accumulate import add_at
from .indexing import stacked
from .shape import expand, is_zero
from .table import Context, lowers

__all__: list[str] = []

aten = torch.ops.aten


@lowers(aten.index_put.default)
def _index_put(
    context: Context, x: Node, indices: Sequence[Node | None], source: Node, accumulate: bool = False
) -> ir.Value:
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    if accumulate:
        added = add_at(context, indices, source)
        if added is not None:
            return added if is_zero(context, x) else context.op("Add", context.value(x, context.dtype), added)
    shape = context.shape
    order = [*dims, *(d for d in range(len(shape)) if d not in dims)]
    straight = order == list(range(len(shape)))
    moved = [shape[d] for d in order]
    places, rows = stacked(context, indices, dims)
    rest = moved[len(dims) :]
    value = context.value(x, context.dtype)
    if not straight:
        if is_zero(context, x):
            value = expand(context, context.value(0), (), moved)
        else:
            value = context.op("Transpose", value, perm=order, shape=moved)
    updates = context.value(source, context.dtype)
    own = context.shape_of(source)
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    lead = dims[0] if adjacent else 0
    wanted: list[Dim] = [*rest[:lead], *rows, *rest[lead:]]
    updates = expand(context, updates, own, wanted)
    if lead:
        n = len(rows)
        front = [*range(lead, lead + n), *range(lead), *range(lead + n, len(wanted))]
        updates = context.op("Transpose", updates, perm=front, shape=[*rows, *rest])
    value = context.op("ScatterND", value, places, updates, shape=moved, reduction="add" if accumulate else "none")
    if straight:
        return value
    inverse = [order.index(d) for d in range(len(shape))]
    return context.op("Transpose", value, perm=inverse)
