"""Reading at places that are given as tensors, and writing along one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from ..batch import Dim
from .shape import expand, reshape
from .table import Context, lowers

__all__ = ["stacked"]

aten = torch.ops.aten
INT64 = ir.DataType.INT64


@lowers(aten.gather.default)
def _gather(context: Context, x: Node, dim: int, index: Node, sparse_grad: bool = False) -> ir.Value:
    axis = dim % max(len(context.shape), 1)
    value, rows = context.value(x), list(context.shape_of(index))
    own = context.shape_of(x)
    if not own:
        return expand(context, value, own, rows)
    # PyTorch reads the leading part of a larger x, which OpenVINO refuses. It also takes a Slice before GatherElements
    # for one of no use, and then refuses what is left.
    shape = list(own)
    for other, count in enumerate(rows):
        if other != axis and count != own[other]:
            if not isinstance(count, int):
                raise NotImplementedError("an index with fewer rows than the batch")
            shape[other] = count
            value = context.op("Gather", value, context.emit.ints(range(count)), axis=other, shape=shape)
    return context.op("GatherElements", value, context.value(index, INT64), axis=axis)


@lowers(aten.index_select.default)
def _index_select(context: Context, x: Node, dim: int, index: Node) -> ir.Value:
    rank = len(context.shape)
    return context.op("Gather", context.value(x), context.value(index, INT64), axis=dim % rank)


@lowers(aten.embedding.default)
def _embedding(context: Context, weight: Node, index: Node, *_: Any) -> ir.Value:
    return context.op("Gather", context.value(weight), context.value(index, INT64), axis=0)


@lowers(aten.scatter.src, aten.scatter_add.default)
def _scatter(context: Context, x: Node, dim: int, index: Node, source: Node) -> ir.Value:
    adds = context.node.target is aten.scatter_add.default
    rows = context.shape_of(index)
    value = context.value(source, context.dtype)
    if context.shape_of(source) != rows:  # PyTorch reads the leading part of a larger source
        bounds = [context.emit.ints([0] * len(rows)), context.emit.dims(rows), context.emit.ints(range(len(rows)))]
        value = context.op("Slice", value, *bounds, shape=rows)
    return _scatter_elements(context, x, dim, index, value, "add" if adds else "none")


@lowers(aten.scatter.value)
def _scatter_value(context: Context, x: Node, dim: int, index: Node, fill: Any) -> ir.Value:
    value = expand(context, context.value(fill), (), context.shape_of(index))
    return _scatter_elements(context, x, dim, index, value, "none")


@lowers(aten.scatter_reduce.two)
def _scatter_reduce(
    context: Context, x: Node, dim: int, index: Node, source: Node, reduce: str, *, include_self: bool = True
) -> ir.Value:
    kinds = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
    if not include_self or reduce not in kinds:
        raise NotImplementedError(f"scatter_reduce with reduce={reduce!r}, include_self={include_self}")
    return _scatter_elements(context, x, dim, index, context.value(source, context.dtype), kinds[reduce])


def _scatter_elements(context: Context, x: Node, dim: int, index: Node, source: ir.Value, reduction: str) -> ir.Value:
    axis = dim % max(len(context.shape), 1)
    inputs = [context.value(x, context.dtype), context.value(index, INT64), source]
    return context.op("ScatterElements", *inputs, axis=axis, reduction=reduction)


@lowers(aten.index.Tensor)
def _index(context: Context, x: Node, indices: Sequence[Node | None]) -> ir.Value:
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    if len(dims) == 1:
        index = indices[dims[0]]
        assert isinstance(index, Node)
        return context.op("Gather", context.value(x), context.value(index, INT64), axis=dims[0])
    shape = context.shape_of(x)
    order = [*dims, *(d for d in range(len(shape)) if d not in dims)]
    value = context.value(x)
    if order != list(range(len(shape))):
        value = context.op("Transpose", value, perm=order, shape=[shape[d] for d in order])
    places, rows = stacked(context, indices, dims)
    rest = [shape[d] for d in order[len(dims) :]]
    front: list[Dim] = [*rows, *rest]
    value = context.op("GatherND", value, places, shape=front)
    return _back_in_place(context, value, dims, rows, front)


def _back_in_place(
    context: Context, value: ir.Value, dims: list[int], rows: Sequence[Dim], front: Sequence[Dim]
) -> ir.Value:
    """PyTorch puts adjacent indexed dimensions where they were, others first."""
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    if not adjacent or dims[0] == 0:
        return value
    n = len(rows)
    order = [*range(n, n + dims[0]), *range(n), *range(n + dims[0], len(front))]
    return context.op("Transpose", value, perm=order, shape=[front[d] for d in order])


def stacked(context: Context, indices: Sequence[Node | None], dims: Sequence[int]) -> tuple[ir.Value, tuple[Dim, ...]]:
    """The index tensors broadcast together and stacked last: [*rows, len(dims)]."""
    nodes = [indices[d] for d in dims]
    shapes = [context.shape_of(node) for node in nodes if node is not None]
    rank = max(len(shape) for shape in shapes)
    padded: list[list[Dim]] = [[*([1] * (rank - len(shape))), *shape] for shape in shapes]
    rows: tuple[Dim, ...] = tuple(next((s for s in sizes if s != 1), 1) for sizes in zip(*padded, strict=True))
    columns = []
    for node, own in zip(nodes, shapes, strict=True):
        value = context.value(node, INT64)
        if own != rows:
            aligned: list[Dim] = [*([1] * (rank - len(own))), *own]
            value = context.op(
                "Expand",
                value,
                context.emit.dims([1 if a == b else b for a, b in zip(aligned, rows, strict=True)]),
                dtype=INT64,
                shape=rows,
            )
        columns.append(reshape(context, value, [*rows, 1], dtype=INT64))
    if len(columns) == 1:
        return columns[0], rows
    return context.op("Concat", *columns, axis=-1, dtype=INT64, shape=[*rows, len(columns)]), rows
