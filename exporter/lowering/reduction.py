"""Sums, maxima, softmax, sorting and running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.fx import Node

from ..batch import Dim
from .table import Context, fixed, lowers

__all__: list[str] = []

aten = torch.ops.aten
FLOAT, INT32, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL


def _axes(x: Node, dims: Any) -> list[int]:
    """Non-negative axes; None and [] mean all of them."""
    rank = len(x.meta["shape"])
    if dims is None or dims == []:
        return list(range(rank))
    return sorted(int(d) % rank if rank else 0 for d in (dims if isinstance(dims, Sequence) else [dims]))


def _reduce(context: Context, kind: str, x: Node, dims: Any, keepdim: bool, dtype: ir.DataType) -> ir.Value:
    if dtype == BOOL:
        return _reduced_bool(context, kind, x, dims, keepdim)
    axes = _axes(x, dims)
    value = context.value(x, dtype)
    if not context.shape_of(x):
        return value
    return context.op(kind, value, context.emit.ints(axes), dtype=dtype, keepdims=int(keepdim))


@lowers(aten.sum.dim_IntList)
def _sum(context: Context, x: Node, dims: Any, keepdim: bool = False, dtype: Any = None) -> ir.Value:
    if context.dtype == INT32:  # onnxruntime sums them in floating point, which has no overflow
        return context.op("Cast", _reduce(context, "ReduceSum", x, dims, keepdim, INT64), to=INT32.value)
    return _reduce(context, "ReduceSum", x, dims, keepdim, context.dtype)


@lowers(aten.sum.default)
def _sum_all(context: Context, x: Node, dtype: Any = None) -> ir.Value:
    return _reduce(context, "ReduceSum", x, None, False, context.dtype)


@lowers(aten.mean.dim)
def _mean(context: Context, x: Node, dims: Any, keepdim: bool = False, dtype: Any = None) -> ir.Value:
    return _reduce(context, "ReduceMean", x, dims, keepdim, context.dtype)


@lowers(aten.mean.default)
def _mean_all(context: Context, x: Node, dtype: Any = None) -> ir.Value:
    return _reduce(context, "ReduceMean", x, None, False, context.dtype)


@lowers(aten.amax.default)
def _amax(context: Context, x: Node, dims: Any = None, keepdim: bool = False) -> ir.Value:
    return _reduce(context, "ReduceMax", x, dims, keepdim, context.dtype)


@lowers(aten.amin.default)
def _amin(context: Context, x: Node, dims: Any = None, keepdim: bool = False) -> ir.Value:
    return _reduce(context, "ReduceMin", x, dims, keepdim, context.dtype)


@lowers(aten.max.default)
def _max_all(context: Context, x: Node) -> ir.Value:
    return _reduce(context, "ReduceMax", x, None, False, context.dtype)


@lowers(aten.min.default)
def _min_all(context: Context, x: Node) -> ir.Value:
    return _reduce(context, "ReduceMin", x, None, False, context.dtype)


@lowers(aten.prod.dim_int)
def _prod(context: Context, x: Node, dim: int, keepdim: bool = False, dtype: Any = None) -> ir.Value:
    return _reduce(context, "ReduceProd", x, [dim], keepdim, context.dtype)


@lowers(aten.prod.default)
def _prod_all(context: Context, x: Node, dtype: Any = None) -> ir.Value:
    return _reduce(context, "ReduceProd", x, None, False, context.dtype)


@lowers(aten.any.dim, aten.any.dims)
def _any(context: Context, x: Node, dims: Any = None, keepdim: bool = False) -> ir.Value:
    return _reduced_bool(context, "ReduceMax", x, dims, keepdim)


@lowers(aten.all.dim, aten.all.dims)
def _all(context: Context, x: Node, dims: Any = None, keepdim: bool = False) -> ir.Value:
    return _reduced_bool(context, "ReduceMin", x, dims, keepdim)


def _reduced_bool(context: Context, kind: str, x: Node, dims: Any, keepdim: bool) -> ir.Value:
    truth = context.value(x, BOOL)
    number = context.op("Cast", truth, dtype=INT32, shape=context.shape_of(x), to=INT32.value)
    axes = context.emit.ints(_axes(x, dims))
    return context.op("Cast", context.op(kind, number, axes, dtype=INT32, keepdims=int(keepdim)), to=BOOL.value)


@lowers(aten.argmax.default, aten.argmin.default)
def _argument(context: Context, x: Node, dim: int | None = None, keepdim: bool = False) -> ir.Value:
    kind = "ArgMax" if context.node.target is aten.argmax.default else "ArgMin"
    shape, own = context.shape_of(x), context.type_of(x)
    own = INT32 if own == BOOL else own
    value = context.value(x, own)
    if dim is None:
        value = context.op("Reshape", value, context.emit.ints([-1]), dtype=own, shape=[_count(shape)])
        return context.op(kind, value, axis=0, keepdims=0)
    return context.op(kind, value, axis=int(dim) % len(shape), keepdims=int(keepdim))


def _count(shape: Sequence[Dim]) -> int:
    return math.prod(fixed(size, "the largest of the whole batch, which mixes samples") for size in shape)


@lowers(aten.max.dim, aten.min.dim)
def _extremum(context: Context, x: Node, dim: int, keepdim: bool = False) -> tuple[ir.Value, ir.Value]:
    largest = context.node.target is aten.max.dim
    own, shape = context.type_of(x), context.node.meta["shape"][0]
    computed = INT32 if own == BOOL else own
    value = context.value(x, computed)
    axis = int(dim) % max(len(context.shape_of(x)), 1)
    extremum = context.op(
        "ReduceMax" if largest else "ReduceMin",
        value,
        context.emit.ints([axis]),
        dtype=computed,
        shape=shape,
        keepdims=int(keepdim),
    )
    if own == BOOL:
        extremum = context.op("Cast", extremum, dtype=BOOL, shape=shape, to=BOOL.value)
    kind = "ArgMax" if largest else "ArgMin"
    return extremum, context.op(kind, value, dtype=INT64, shape=shape, axis=axis, keepdims=int(keepdim))


@lowers(aten.topk.default)
def _topk(
    context: Context, x: Node, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[ir.Value, ...]:
    return _top(context, x, k, dim, largest)


@lowers(aten.sort.default)
def _sort(context: Context, x: Node, dim: int = -1, descending: bool = False) -> tuple[ir.Value, ...]:
    return _top(context, x, context.shape_of(x)[dim], dim, descending)


@lowers(aten.sort.stable)
def _stable_sort(
    context: Context, x: Node, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[ir.Value, ...]:
    return _top(context, x, context.shape_of(x)[dim], dim, descending)


def _top(context: Context, x: Node, k: Any, dim: int, largest: bool) -> tuple[ir.Value, ...]:
    shape, own = context.node.meta["shape"][0], context.type_of(x)
    axis = int(dim) % len(shape)
    if own == BOOL:
        return _top_of_truths(context, x, k, axis, largest)
    return _top_k(context, context.value(x), k, axis, largest, own, shape)


def _top_k(
    context: Context, value: ir.Value, k: Any, axis: int, largest: bool, own: ir.DataType, shape: Sequence[Dim]
) -> tuple[ir.Value, ...]:
    inputs, outputs = [value, context.emit.dims([k])], [(own, shape), (INT64, shape)]
    return tuple(context.emit.ops("TopK", inputs, outputs=outputs, axis=axis, largest=int(largest), sorted=1))


def _top_of_truths(context: Context, x: Node, k: Any, axis: int, largest: bool) -> tuple[ir.Value, ...]:
    # TopK takes no booleans. As n x + place all of them differ, so that equal ones keep their order on every engine.
    own, shape = context.shape_of(x), context.node.meta["shape"][0]
    count = fixed(own[axis], "samples are sorted among each other")
    places = np.arange(count)[:: -1 if largest else 1].reshape([-1] + [1] * (len(own) - axis - 1))
    wide = context.op("Mul", context.value(x, INT32), context.emit.constant(count, INT32), dtype=INT32, shape=own)
    keys = context.op("Add", wide, context.emit.constant(places, INT32), dtype=INT32, shape=own)
    top, indices = _top_k(context, keys, k, axis, largest, INT32, shape)
    return context.op("Greater", top, context.emit.constant(count - 1, INT32), dtype=BOOL, shape=shape), indices


@lowers(aten._softmax.default)
def _softmax(context: Context, x: Node, dim: int, half_to_float: bool = False) -> ir.Value:
    return context.op("Softmax", context.value(x, context.dtype), axis=int(dim) % max(len(context.shape), 1))


@lowers(aten._log_softmax.default)
def _log_softmax(context: Context, x: Node, dim: int, half_to_float: bool = False) -> ir.Value:
    return context.op("LogSoftmax", context.value(x, context.dtype), axis=int(dim) % max(len(context.shape), 1))


@lowers(aten.cumsum.default)
def _cumsum(context: Context, x: Node, dim: int, dtype: Any = None) -> ir.Value:
    axis = context.emit.constant(int(dim) % max(len(context.shape), 1), INT64)
    return context.op("CumSum", context.value(x, context.dtype), axis)
