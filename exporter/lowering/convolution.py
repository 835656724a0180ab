"""Convolutions and pools. Transposed convolutions are rewritten before they get here (`rules.convolution`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from ..batch import Dim
from ..spatial import per_axis
from .shape import cut
from .table import Context, fixed, lowers

__all__: list[str] = []

aten = torch.ops.aten


@lowers(aten.convolution.default)
def _convolution(
    context: Context,
    x: Node,
    weight: Node,
    bias: Node | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> ir.Value:
    rank = len(context.shape) - 2
    pads = per_axis(padding, rank)
    if not isinstance(groups, int):
        raise NotImplementedError("a kernel for each sample: the number of groups grows with the batch")
    attributes: dict[str, Any] = {
        "strides": per_axis(stride, rank),
        "pads": [*pads, *pads],
        "dilations": per_axis(dilation, rank),
        "group": groups,
    }
    kind = "Conv"
    if transposed:
        kind = "ConvTranspose"
        attributes["output_padding"] = per_axis(output_padding, rank)
    return context.op(
        kind, context.value(x), context.value(weight), None if bias is None else context.value(bias), **attributes
    )


@lowers(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default)
def _max_pool(
    context: Context,
    x: Node,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[ir.Value]:
    # Only the maxima: the indices are wanted by PyTorch's own gradient alone, which `rules.max_pool` replaces.
    shape = context.node.meta["shape"][0]
    rank = 3 if context.node.target is aten.max_pool3d_with_indices.default else 2
    value, own = context.value(x), context.shape_of(x)
    if len(own) == rank + 1:  # no batch dimension: ONNX wants one
        value = context.op("Unsqueeze", value, context.emit.ints([0]), dtype=context.type_of(x), shape=[1, *own])
        shape = (1, *shape)
    size, steps, gaps = per_axis(kernel, rank), per_axis(stride or kernel, rank), per_axis(dilation, rank)
    before = per_axis(padding, rank)
    after = _after_last_window(own[-rank:], shape[2:], size, steps, before, gaps) if ceil_mode else before
    pooled = context.op(
        "MaxPool",
        value,
        dtype=context.type_of(x),
        shape=shape,
        kernel_shape=size,
        strides=steps,
        pads=[*before, *after],
        dilations=gaps,
    )
    if len(own) == rank + 1:
        pooled = context.op("Squeeze", pooled, context.emit.ints([0]), dtype=context.type_of(x), shape=shape[1:])
    return (pooled,)


def _after_last_window(
    own: Sequence[Dim],
    out: Sequence[Dim],
    kernel: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Padding at the end of each axis with which a pool that rounds down makes the windows that PyTorch rounds up to.

    ONNX's ceil_mode is not PyTorch's, which drops a last window that would begin behind x and its padding before:
    shape inference and OpenVINO keep it, onnxruntime does not. What PyTorch keeps has a number of x in it, so the
    padding stays below the kernel; and every window that x itself has room for is kept, so there are not too many.
    """
    ends = []
    for n, o, k, s, p, d in zip(own, out, kernel, stride, before, dilation, strict=True):
        n, o = (fixed(length, "the batch is taken for an image's height or width") for length in (n, o))
        ends.append(max((o - 1) * s + d * (k - 1) + 1 - p - n, 0))
    return ends


@lowers(aten.avg_pool2d.default, aten.avg_pool3d.default)
def _avg_pool(
    context: Context,
    x: Node,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    *_: Any,
) -> ir.Value:
    # Odd cases (ceil_mode, other divisors, no batch) are rewritten by `rules.average_pool`: what else is given changes nothing.
    rank = len(context.shape) - 2
    size = per_axis(kernel, rank)
    pads = per_axis(padding, rank)
    return context.op(
        "AveragePool",
        context.value(x),
        kernel_shape=size,
        strides=per_axis(stride or size, rank),
        pads=[*pads, *pads],
        count_include_pad=1,
    )


@lowers(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)
def _upsample_nearest(context: Context, x: Node, size: Any, *_: Any) -> ir.Value:
    # `rules.resampling` leaves only whole factors, for which every rounding rule is the same.
    wide, narrow = ([fixed(size, "the batch is taken for an image's height or width") for size in shape[2:]]
                    for shape in (context.shape, context.shape_of(x)))  # fmt: skip
    scales = [1.0, 1.0, *(a / b for a, b in zip(wide, narrow, strict=True))]
    factor = context.emit.constant(scales, ir.DataType.FLOAT)
    return context.op(
        "Resize",
        context.value(x),
        None,
        factor,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@lowers(*(getattr(aten, f"{kind}_pad{rank}d").default for kind in ("reflection", "replication") for rank in (1, 2, 3)))
def _border_pad(context: Context, x: Node, pads: Sequence[int]) -> ir.Value:
    rank = len(context.shape)
    before, after = [0] * rank, [0] * rank
    for index in range(len(pads) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = int(pads[2 * index]), int(pads[2 * index + 1])
    shape = list(context.shape_of(x))
    for axis in range(rank):
        size = shape[axis]
        if isinstance(size, int):
            shape[axis] = size + max(before[axis], 0) + max(after[axis], 0)
    amounts = context.emit.ints([max(n, 0) for n in (*before, *after)])
    mode = "reflect" if "reflection" in str(context.node.target) else "edge"
    value = context.op("Pad", context.value(x), amounts, mode=mode, shape=shape)
    for axis in range(rank):  # a negative pad cuts
        if before[axis] < 0 or after[axis] < 0:
            size = fixed(shape[axis], "the batch is cut by a negative pad")
            start, end = max(-before[axis], 0), size - max(-after[axis], 0)
            shape[axis] = end - start
            value = cut(context, value, axis, start, end, 1, shape)
    return value
