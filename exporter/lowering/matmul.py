"""Matrix products."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from ..batch import BatchSize, Dim
from .shape import reshape
from .table import Context, lowers

__all__: list[str] = []

aten = torch.ops.aten


@lowers(aten.mv.default, aten.dot.default)
def _vector(context: Context, a: Node, b: Node) -> ir.Value:
    # As matrices: onnxruntime 1.32 moves a transpose past a product with a vector as if the vector were a matrix,
    # and the result is wrong.
    left = context.value(a, context.dtype)
    rows: list[Dim] = [1, *context.shape_of(a)] if context.node.target is aten.dot.default else [*context.shape_of(a)]
    if len(rows) != len(context.shape_of(a)):
        left = reshape(context, left, rows)
    column = reshape(context, context.value(b, context.dtype), [*context.shape_of(b), 1])
    return reshape(context, context.op("MatMul", left, column, shape=[rows[0], 1]), context.shape)


@lowers(aten.mm.default, aten.bmm.default)
def _matmul(context: Context, a: Node, b: Node) -> ir.Value:
    return context.op("MatMul", context.value(a, context.dtype), context.value(b, context.dtype))


@lowers(aten.matmul.default)
def _shared(context: Context, a: Node, b: Node) -> ir.Value:
    """[T, N, K] by [K, M], of `share_factors`, with the rows of all matrices as rows of one.

    onnxruntime 1.32 crashes where it moves a transpose of three dimensions past a cast and into such a product.
    """
    first, second, width = context.shape_of(a)
    if isinstance(first, BatchSize) and isinstance(second, BatchSize):
        return context.op("MatMul", context.value(a, context.dtype), context.value(b, context.dtype))
    rows = _times(second, first) if isinstance(first, int) else _times(first, second)
    left = reshape(context, context.value(a, context.dtype), [rows, width])
    product = context.op("MatMul", left, context.value(b, context.dtype), shape=[rows, context.shape[-1]])
    return reshape(context, product, context.shape)


def _times(size: Dim, factor: Any) -> Dim:
    return BatchSize(size.factor * factor, size.offset * factor) if isinstance(size, BatchSize) else size * factor


@lowers(aten.addmm.default)
def _addmm(context: Context, bias: Node, a: Node, b: Node, beta: Any = 1, alpha: Any = 1) -> ir.Value:
    operands = [context.value(argument, context.dtype) for argument in (a, b, bias)]
    return context.op("Gemm", *operands, alpha=float(alpha), beta=float(beta))


@lowers(aten.baddbmm.default)
def _baddbmm(context: Context, bias: Node, a: Node, b: Node, beta: Any = 1, alpha: Any = 1) -> ir.Value:
    product = context.op("MatMul", context.value(a, context.dtype), context.value(b, context.dtype))
    if alpha != 1:
        product = context.op("Mul", product, context.value(alpha))
    offset = context.value(bias, context.dtype)
    if beta != 1:
        offset = context.op("Mul", offset, context.value(beta), shape=context.shape_of(bias))
    return context.op("Add", product, offset)
