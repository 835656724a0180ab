"""Adding at places given as tensors, without a scatter: TensorRT has none that adds, nor onnxruntime one in FP16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch.fx import Node

from ..batch import BatchSize, Dim, arguments_of
from .indexing import stacked
from .shape import expand, reshape
from .table import Context

__all__ = ["add_at"]

aten = torch.ops.aten
BOOL, FLOAT, INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64

_LARGEST_MATRIX = 1 << 22
"""Elements up to which the 0/1 matrix of constant places, or the table that stands for it, is written down."""
_MOST_COMPARISONS = 1 << 20
"""Comparisons for each sample up to which a 0/1 matrix of places is made at run time."""


def add_at(context: Context, indices: Sequence[Node | None], source: Node) -> ir.Value | None:
    """What index_put(accumulate=True) adds to its tensor, in the tensor's shape.

    The tensor's dimensions are parted as [*lead, *places, *rest], with M places in all and K values for each of
    `lead` and `rest`. Which value goes where is a 0/1 matrix [M, K], so that adding is a product with it:

    1. constant places, each given once at most: a Gather of the values, zero where none goes;
    2. other constant places: MatMul [M, K] x [*lead, K, rest]; where the matrix would be too large, a Gather of the
       values of every place and their sum, as for integers, of which not every engine makes products;
    3. places of each sample's own, known at run time: MatMul [B, M, K] x [B, K, rest], the matrix by comparison.

    A product makes an infinite value NaN at the other places of its sample; no energy worth sampling has one.

    Args:
        context: the index_put that is being lowered.
        indices: an index tensor for each dimension, None where it is taken whole; the last ones may be left out.
        source: the values, broadcast to the shape that reading at `indices` has.

    Returns:
        The sum, or None where there is no such way: the batch is indexed otherwise than by its own numbers 0, 1, ..,
        or there are too many places, or numbers that are not float32 at places known at run time.
    """
    if context.dtype == BOOL:
        return None
    parts = _part(context, indices)
    if parts is None:
        return None
    own = context.shape_of(source)
    value = expand(context, context.value(source, context.dtype), own, [*parts.lead, *parts.rows, *parts.rest])
    value = reshape(context, value, [*parts.lead, parts.values, parts.behind])
    places = _constant_places(context, indices, parts)
    if places is not None:
        summed = _by_table(context, value, places, parts)
    else:
        summed = _by_comparison(context, indices, value, parts)
    if summed is None:
        return None
    written = [context.shape[d] for d in parts.order]
    if parts.order == sorted(parts.order):
        return reshape(context, summed, written)
    inverse = [parts.order.index(d) for d in range(len(written))]
    return context.op("Transpose", reshape(context, summed, written), perm=inverse)


@dataclass(frozen=True)
class _Parts:
    """How index_put parts its tensor."""

    dims: list[int]
    """The indexed dimensions, but for the batch where each sample has places of its own."""
    order: list[int]
    """The tensor's dimensions in the order [*lead, *places, *rest]."""
    lead: list[Dim]
    rows: list[Dim]
    """Shape of the index tensors, broadcast together and without the batch."""
    rest: list[Dim]
    count: int
    """Number of places, M."""
    values: int
    """Number of values for each of `lead` and `rest`, K."""
    behind: Dim
    """Size of `rest` as one dimension."""


def _part(context: Context, indices: Sequence[Node | None]) -> _Parts | None:
    shape = context.shape
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    given = [context.shape_of(index) for index in indices if index is not None]
    rank = max(len(own) for own in given)
    padded = [(*([1] * (rank - len(own))), *own) for own in given]
    rows: list[Dim] = [next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True)]
    first = indices[dims[0]]
    assert first is not None
    if dims[0] == 0 and len(dims) > 1 and rank == len(given[0]) and _counts_the_batch(context, first):
        dims, rows = dims[1:], rows[1:]
        others = [d for d in range(1, len(shape)) if d not in dims]
        order, before = [0, *dims, *others], 1
    else:
        adjacent = dims == list(range(dims[0], dims[-1] + 1))
        before = dims[0] if adjacent else 0  # PyTorch puts dimensions that are indexed apart first
        others = [d for d in range(before, len(shape)) if d not in dims]
        order = [*range(before), *dims, *others]
    sizes = [shape[d] for d in dims]
    rest = [shape[d] for d in others]
    batched = [size for size in rest if isinstance(size, BatchSize)]
    if len(batched) > 1 or any(isinstance(size, BatchSize) for size in (*sizes, *rows)):
        return None
    behind: Dim = _volume(rest)
    if batched:
        behind = BatchSize(batched[0].factor * _volume(rest), batched[0].offset * _volume(rest))
    return _Parts(dims, order, list(shape[:before]), rows, rest, _volume(sizes), _volume(rows), behind)


def _volume(sizes: Sequence[Dim]) -> int:
    """Number of elements, the batch left out."""
    return math.prod(size for size in sizes if isinstance(size, int))


def _counts_the_batch(context: Context, index: Node) -> bool:
    """Whether an index tensor [B, 1, .., 1] holds 0, 1, .., B - 1, so that every sample indexes itself."""
    shape = context.shape_of(index)
    if shape[:1] != (BatchSize(1),) or any(size != 1 for size in shape[1:]):
        return False
    while index.target in (aten.view.default, aten.unsqueeze.default, aten._to_copy.default):
        index = index.args[0]  # type: ignore[assignment]
    if index.target is not aten.arange.start_step:
        return False
    start, end, *step = arguments_of(index)[0]
    return start == 0 and end == BatchSize(1) and step in ([], [1])


def _constant_places(context: Context, indices: Sequence[Node | None], parts: _Parts) -> np.ndarray | None:
    """Places [K], each a number below M, or None where an index is no constant."""
    arrays = [context.constants.get(index) for d in parts.dims if (index := indices[d]) is not None]
    known = [array for array in arrays if array is not None]
    if len(known) < len(arrays):
        return None
    sizes = [size for d in parts.dims if isinstance(size := context.shape[d], int)]
    rows = [size for size in parts.rows if isinstance(size, int)]
    # An index may keep dimensions of size 1 in front, such as the batch's, that `rows` leaves out.
    shaped = [array.reshape(array.shape[max(0, array.ndim - len(rows)) :]) for array in known]
    whole = [np.broadcast_to(array % size, rows) for array, size in zip(shaped, sizes, strict=True)]
    return np.ravel_multi_index(whole, sizes).reshape(-1)


def _by_table(context: Context, value: ir.Value, places: np.ndarray, parts: _Parts) -> ir.Value | None:
    """Sums values [*lead, K, behind] at constant places into [*lead, M, behind]."""
    count, given = parts.count, parts.values
    times = np.bincount(places, minlength=count)
    most = max(int(times.max(initial=0)), 1)
    if most > 1 and count * given <= _LARGEST_MATRIX and context.dtype == FLOAT:
        matrix = np.zeros((count, given), np.float32)
        matrix[places, np.arange(given)] = 1
        return context.op("MatMul", context.emit.constant(matrix), value, shape=[*parts.lead, count, parts.behind])
    if count * most > _LARGEST_MATRIX:
        return None
    # Row m lists the values that go to place m; what is missing is the zero behind the last value.
    table = np.full((count, most), given)
    order = np.argsort(places, kind="stable")
    nth = np.arange(given) - np.repeat(np.cumsum(times) - times, times)
    table[places[order], nth] = order
    axis = len(parts.lead)
    if (table == given).any():
        pads = [0] * (2 * (axis + 2))
        pads[-2] = 1
        padded = [*parts.lead, given + 1, parts.behind]
        value = context.op("Pad", value, context.emit.ints(pads), context.value(0), mode="constant", shape=padded)
    if most == 1:
        table = table[:, 0]
    shape = [*parts.lead, *table.shape, parts.behind]
    value = context.op("Gather", value, context.emit.constant(table, INT64), axis=axis, shape=shape)
    if most == 1:
        return value
    axes = context.emit.ints([axis + 1])
    return context.op("ReduceSum", value, axes, keepdims=0, shape=[*parts.lead, count, parts.behind])


def _by_comparison(context: Context, indices: Sequence[Node | None], value: ir.Value, parts: _Parts) -> ir.Value | None:
    """Sums values [B, K, behind] at places known at run time into [B, M, behind]."""
    count, given = parts.count, parts.values
    if count * given > _MOST_COMPARISONS or context.dtype != FLOAT:
        return None
    columns, own = stacked(context, indices, parts.dims)  # [*own, number of dims]
    sizes = [size for d in parts.dims if isinstance(size := context.shape[d], int)]
    # Mod, because an index may count from the end.
    columns = context.op("Mod", columns, context.emit.ints(sizes), dtype=INT64, shape=[*own, len(sizes)])
    if len(sizes) > 1:
        strides = context.emit.ints([math.prod(sizes[i + 1 :]) for i in range(len(sizes))])
        columns = context.op("Mul", columns, strides, dtype=INT64, shape=[*own, len(sizes)])
        columns = context.op("ReduceSum", columns, context.emit.ints([-1]), keepdims=0, dtype=INT64, shape=own)
    batch = [size for size in own if isinstance(size, BatchSize)]
    places = reshape(context, columns, [*batch, 1, given], dtype=INT64)
    every = context.emit.constant(np.arange(count)[:, None], INT64)
    hit = context.op("Equal", places, every, dtype=BOOL, shape=[*batch, count, given])
    matrix = context.op("Cast", hit, to=FLOAT.value, shape=[*batch, count, given])
    return context.op("MatMul", matrix, value, shape=[*parts.lead, count, parts.behind])
