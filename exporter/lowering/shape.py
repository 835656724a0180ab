"""Operations that move, cut, join and make numbers without computing on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.fx import Node

from ..batch import BatchSize, Dim
from .table import Context, fixed, lowers

__all__: list[str] = []

aten = torch.ops.aten
_END = np.iinfo(np.int64).max


@lowers(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.view_copy.default)
def _view(context: Context, x: Node, size: Any) -> ir.Value:
    return reshape(context, context.value(x), context.shape)


def reshape(context: Context, value: ir.Value, shape: Sequence[Dim], dtype: ir.DataType | None = None) -> ir.Value:
    """Reshape to a shape with at most one batch dimension as -1, so that no engine has to compute it."""
    array = value.const_value
    if array is not None and not any(isinstance(size, BatchSize) for size in shape):
        return context.emit.constant(array.numpy().reshape([int(str(size)) for size in shape]), name=value.name or "")
    batched = [size for size in shape if isinstance(size, BatchSize)]
    if len(batched) <= 1 and 0 not in shape:
        wanted = context.emit.ints([-1 if isinstance(size, BatchSize) else size for size in shape])
    else:
        wanted = context.emit.dims(shape)
    return context.op("Reshape", value, wanted, shape=shape, dtype=dtype)


@lowers(aten.permute.default)
def _permute(context: Context, x: Node, dims: Sequence[int]) -> ir.Value:
    rank = len(context.shape)
    return context.op("Transpose", context.value(x), perm=[int(d) % rank for d in dims])


@lowers(aten.transpose.int)
def _transpose(context: Context, x: Node, a: int, b: int) -> ir.Value:
    order = list(range(len(context.shape)))
    order[a], order[b] = order[b], order[a]
    return context.op("Transpose", context.value(x), perm=order)


@lowers(aten.t.default)
def _t(context: Context, x: Node) -> ir.Value:
    if len(context.shape) < 2:
        return context.value(x)
    return context.op("Transpose", context.value(x), perm=[1, 0])


@lowers(aten.unsqueeze.default)
def _unsqueeze(context: Context, x: Node, dim: int) -> ir.Value:
    return reshape(context, context.value(x), context.shape)


@lowers(aten.squeeze.dims, aten.squeeze.dim, aten.squeeze.default)
def _squeeze(context: Context, x: Node, dims: Any = None) -> ir.Value:
    return reshape(context, context.value(x), context.shape)


@lowers(aten.expand.default)
def _expand(context: Context, x: Node, size: Any, implicit: bool = False) -> ir.Value:
    return expand(context, context.value(x), context.shape_of(x), context.shape)


def expand(context: Context, value: ir.Value, own: Sequence[Dim], shape: Sequence[Dim]) -> ir.Value:
    """Broadcasts to `shape`; a dimension that stays is asked for as 1, which keeps it."""
    rank = len(own)
    own = [1] * (len(shape) - rank) + list(own)
    if list(own) == list(shape):
        return value if rank == len(shape) else reshape(context, value, shape)
    return context.op(
        "Expand",
        value,
        context.emit.dims([1 if a == b else b for a, b in zip(own, shape, strict=True)]),
        shape=shape,
    )


@lowers(aten.repeat.default)
def _repeat(context: Context, x: Node, repeats: Sequence[Any]) -> ir.Value:
    own = context.shape_of(x)
    padded: list[Dim] = [*([1] * (len(repeats) - len(own))), *own]
    value = context.value(x)
    if len(padded) != len(own):
        value = reshape(context, value, padded)
    return context.op("Tile", value, context.emit.dims(repeats))


@lowers(aten.slice.Tensor)
def _slice(context: Context, x: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> ir.Value:
    return cut(context, context.value(x), dim % len(context.shape), start, end, step, context.shape)


def cut(
    context: Context,
    value: ir.Value,
    axis: int,
    start: Any,
    end: Any,
    step: int,
    shape: Sequence[Dim],
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """value[start:end:step] along one axis; None is the open end."""
    begin = context.emit.dims([0 if start is None else start])
    # PyTorch writes the open end as the largest integer or as the size itself; a batch end must stay open.
    stop = context.emit.dims([_END if end is None else end])
    along = [context.emit.ints([axis]), context.emit.ints([step])]
    return context.op("Slice", value, begin, stop, *along, shape=shape, dtype=dtype)


@lowers(aten.select.int)
def _select(context: Context, x: Node, dim: int, index: Any) -> ir.Value:
    rank = len(context.shape_of(x))
    return context.op("Gather", context.value(x), context.value(index, ir.DataType.INT64), axis=dim % rank)


@lowers(aten.cat.default)
def _cat(context: Context, tensors: Sequence[Node], dim: int = 0) -> ir.Value:
    # What is empty adds nothing, PyTorch's historic neutral element of cat, an empty vector, included.
    kept = [tensor for tensor in tensors if 0 not in context.shape_of(tensor)] or tensors[-1:]
    parts = [context.value(tensor, context.dtype) for tensor in kept]
    return context.op("Concat", *parts, axis=dim % len(context.shape)) if len(parts) > 1 else parts[0]


@lowers(aten.stack.default)
def _stack(context: Context, tensors: Sequence[Node], dim: int = 0) -> ir.Value:
    axis = dim % len(context.shape)
    one: list[Dim] = [*context.shape[:axis], 1, *context.shape[axis + 1 :]]
    parts = [reshape(context, context.value(tensor, context.dtype), one) for tensor in tensors]
    return context.op("Concat", *parts, axis=axis)


@lowers(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int)
def _split(context: Context, x: Node, *arguments: Any, dim: int = 0) -> tuple[ir.Value, ...]:
    value, shapes = context.value(x), context.node.meta["shape"]
    unbinds = context.node.target is aten.unbind.int
    place = 0 if unbinds else 1
    axis = (arguments[place] if len(arguments) > place else dim) % len(context.shape_of(x))
    pieces: list[ir.Value] = []
    start: Dim = 0
    for index, shape in enumerate(shapes):
        if unbinds:
            place_of = context.emit.constant(index, ir.DataType.INT64)
            pieces.append(context.op("Gather", value, place_of, axis=axis, shape=shape, dtype=context.type_of(x)))
            continue
        stop = _plus(start, shape[axis])
        pieces.append(cut(context, value, axis, start, stop, 1, shape, context.type_of(x)))
        start = stop
    return tuple(pieces)


@lowers(aten.constant_pad_nd.default)
def _pad(context: Context, x: Node, pads: Sequence[int], fill: Any = 0) -> ir.Value:
    value, shape = context.value(x), list(context.shape_of(x))
    rank = len(shape)
    before, after = [0] * rank, [0] * rank
    for index in range(len(pads) // 2):
        axis = rank - 1 - index
        before[axis], after[axis] = int(pads[2 * index]), int(pads[2 * index + 1])
    for axis in range(rank):  # a negative pad cuts
        low, high = max(-before[axis], 0), max(-after[axis], 0)
        if low or high:
            size = fixed(shape[axis], "the batch is cut by a negative pad")
            shape[axis] = size - low - high
            value = cut(context, value, axis, low, size - high, 1, shape)
    before, after = [max(n, 0) for n in before], [max(n, 0) for n in after]
    if not any(before) and not any(after):
        return value
    return context.op("Pad", value, context.emit.ints([*before, *after]), context.value(fill), mode="constant")


@lowers(aten.flip.default)
def _flip(context: Context, x: Node, dims: Sequence[int]) -> ir.Value:
    axes = [d % len(context.shape) for d in dims]
    count = len(axes)
    bounds = [[-1] * count, [np.iinfo(np.int64).min + 1] * count, axes, [-1] * count]
    return context.op("Slice", context.value(x), *(context.emit.ints(numbers) for numbers in bounds))


@lowers(aten.slice_scatter.default)
def _slice_scatter(
    context: Context, x: Node, source: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> ir.Value:
    axis = dim % len(context.shape)
    size = context.shape[axis]
    if isinstance(size, BatchSize):
        if step != 1:
            raise NotImplementedError("every other sample of the batch is written")
        return _write_rows(context, x, context.value(source, context.dtype), axis, start or 0, context.shape_of(source))
    begin = min(max((0 if start is None else start) + (size if (start or 0) < 0 else 0), 0), size)
    return _write(context, x, context.value(source, context.dtype), axis, begin, step, context.shape_of(source)[axis])


def _write_rows(context: Context, x: Node, source: ir.Value, axis: int, start: Any, own: Sequence[Dim]) -> ir.Value:
    """x with `source` written from `start` on along an axis that grows with the batch (samples in several copies)."""
    shape, size = list(context.shape), context.shape[axis]
    stop = _plus(start, own[axis])
    base = context.value(x, context.dtype)
    parts = []
    for begin, end in ((0, start), (stop, size)):
        count = _plus(end, begin, sign=-1)
        if count == 0:
            continue
        parts.append(cut(context, base, axis, begin, end, 1, [*shape[:axis], count, *shape[axis + 1 :]]))
        if begin == 0:
            parts.append(source)
    if source not in parts:
        parts.insert(0, source)
    return context.op("Concat", *parts, axis=axis) if len(parts) > 1 else source


def _plus(a: Dim, b: Dim, sign: int = 1) -> Dim:
    """a + sign * b for dimensions that may grow with the batch."""
    left = a if isinstance(a, BatchSize) else BatchSize(0, a)
    right = b if isinstance(b, BatchSize) else BatchSize(0, b)
    factor, offset = left.factor + sign * right.factor, left.offset + sign * right.offset
    return BatchSize(factor, offset) if factor else offset


@lowers(aten.select_scatter.default)
def _select_scatter(context: Context, x: Node, source: Node, dim: int, index: int) -> ir.Value:
    axis = dim % len(context.shape)
    size = fixed(context.shape[axis], "one sample of the batch is written by its number")
    one: list[Dim] = [*context.shape[:axis], 1, *context.shape[axis + 1 :]]
    return _write(context, x, reshape(context, context.value(source, context.dtype), one), axis, index % size, 1, 1)


def _write(context: Context, x: Node, source: ir.Value, axis: int, start: int, step: int, count: Any) -> ir.Value:
    """X with `source` written at start, start + step, ... along an axis: the neighbours joined around it."""
    shape = list(context.shape)
    size = fixed(shape[axis], "a part of the batch is written")
    count = fixed(count, "as many places are written as the batch has samples")
    rank = len(shape)

    def sized(length: int) -> list[Dim]:
        return [*shape[:axis], length, *shape[axis + 1 :]]

    stop = start + (count - 1) * step + 1
    if step > 1 and count > 1:  # spread the source: [.., n, ..] -> [.., n, step, ..] -> [.., n * step, ..]
        wide: list[Dim] = [*shape[:axis], count, 1, *shape[axis + 1 :]]
        spread = reshape(context, source, wide)
        pads = [0] * (2 * (rank + 1))
        pads[rank + 1 + axis + 1] = step - 1
        wide[axis + 1] = step
        spread = context.op("Pad", spread, context.emit.ints(pads), context.value(0), mode="constant", shape=wide)
        spread = reshape(context, spread, sized(count * step))
        source = cut(context, spread, axis, 0, stop - start, 1, sized(stop - start))
    if is_zero(context, x):
        if start == 0 and stop == size:
            return source
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = start, size - stop
        return context.op("Pad", source, context.emit.ints(pads), context.value(0), mode="constant")
    own = context.value(x, context.dtype)
    if step > 1 and count > 1:
        every = np.zeros(size, np.bool_)
        every[start:stop:step] = True
        written = every.reshape([size if i == axis else 1 for i in range(rank)])
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = start, size - stop
        if start or size - stop:
            source = context.op("Pad", source, context.emit.ints(pads), context.value(0), mode="constant")
        if context.dtype == ir.DataType.BOOL:  # onnxruntime's CPU provider chooses between numbers only
            return context.op("Or", source, context.op("And", context.emit.constant(~written), own))
        return context.op("Where", context.emit.constant(written), source, own)
    parts = []
    if start > 0:
        parts.append(cut(context, own, axis, 0, start, 1, sized(start)))
    parts.append(source)
    if stop < size:
        parts.append(cut(context, own, axis, stop, size, 1, sized(size - stop)))
    return context.op("Concat", *parts, axis=axis) if len(parts) > 1 else source


def is_zero(context: Context, x: Node) -> bool:
    """Whether a node is a tensor of zeros, as the gradient of a slice starts from."""
    if x in context.constants:
        return not bool(context.constants[x].any())
    if x.target is aten.full.default:
        return bool(x.args[1] == 0)
    return x.target is aten.expand.default and isinstance(x.args[0], Node) and is_zero(context, x.args[0])


@lowers(aten.full.default)
def _full(context: Context, size: Any, fill: Any, **_: Any) -> ir.Value:
    return _filled(context, fill)


@lowers(aten.full_like.default, aten.new_full.default)
def _full_like(context: Context, x: Node, *arguments: Any, **_: Any) -> ir.Value:
    return _filled(context, arguments[-1])


@lowers(aten.empty.memory_format, aten.empty_like.default, aten.empty_permuted.default, aten.new_empty_strided.default)
def _empty(context: Context, *_: Any, **__: Any) -> ir.Value:
    return _filled(context, 0)  # its content is overwritten before it is read


@lowers(aten.scalar_tensor.default)
def _scalar(context: Context, value: Any, **_: Any) -> ir.Value:
    return context.value(value)


@lowers(aten.arange.start_step)
def _arange(context: Context, start: Any, end: Any, step: Any = 1, **_: Any) -> ir.Value:
    return context.op("Range", context.value(start), context.value(end), context.value(step))


def _filled(context: Context, fill: Any) -> ir.Value:
    if isinstance(fill, Node):
        return expand(context, context.value(fill, context.dtype), (), context.shape)
    return expand(context, context.emit.constant(fill, context.dtype), (), context.shape)


@lowers(aten.copy.default)
def _copy(context: Context, x: Node, source: Node, non_blocking: bool = False) -> ir.Value:
    return expand(context, context.value(source, context.dtype), context.shape_of(source), context.shape)


@lowers(aten.pixel_shuffle.default)
def _pixel_shuffle(context: Context, x: Node, factor: int) -> ir.Value:
    value, own, shape = context.value(x), context.shape_of(x), context.shape
    if len(own) == 4:
        return context.op("DepthToSpace", value, blocksize=factor, mode="CRD")
    # ONNX wants one leading dimension; PyTorch takes any number of them, none included.
    lead: Dim = volume(own[:-3])
    for size in own[:-3]:
        if isinstance(size, BatchSize):
            if isinstance(lead, BatchSize):
                raise NotImplementedError("the batch twice among the leading dimensions")
            lead = BatchSize(size.factor * lead, size.offset * lead)
    value = reshape(context, value, [lead, *own[-3:]])
    value = context.op("DepthToSpace", value, blocksize=factor, mode="CRD", shape=[lead, *shape[-3:]])
    return reshape(context, value, shape)


@lowers(aten.pixel_unshuffle.default)
def _pixel_unshuffle(context: Context, x: Node, factor: int) -> ir.Value:
    # SpaceToDepth orders the block before the channel; PyTorch orders the channel first.
    *lead, channels, height, width = context.shape_of(x)
    height, width = (fixed(size, "the batch is taken for an image's height or width") for size in (height, width))
    split: list[Dim] = [*lead, channels, height // factor, factor, width // factor, factor]
    value = reshape(context, context.value(x), split)
    n = len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    value = context.op("Transpose", value, perm=order, shape=[split[i] for i in order])
    return reshape(context, value, context.shape)


@lowers(aten.diagonal.default)
def _diagonal(context: Context, x: Node, offset: int = 0, dim1: int = 0, dim2: int = 1) -> ir.Value:
    shape = context.shape_of(x)
    rank = len(shape)
    a, b = dim1 % rank, dim2 % rank
    order = [*(d for d in range(rank) if d not in (a, b)), a, b]
    moved = [shape[d] for d in order]
    rows, columns = (fixed(size, "a diagonal along the batch") for size in moved[-2:])
    value = context.op("Transpose", context.value(x), perm=order, shape=moved)
    value = reshape(context, value, [*moved[:-2], rows * columns])
    first = (max(-offset, 0)) * columns + max(offset, 0)
    count = fixed(context.shape[-1], "a diagonal along the batch")
    places = first + (columns + 1) * np.arange(count)
    return context.op("Gather", value, context.emit.constant(places, ir.DataType.INT64), axis=rank - 2)


def volume(shape: Sequence[Dim]) -> int:
    """Number of elements of a static shape."""
    return math.prod(size for size in shape if isinstance(size, int))
