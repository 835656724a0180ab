"""Matrix products."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from .table import Context, lowers

__all__: list[str] = []

aten = torch.ops.aten


@lowers(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def _matmul(context: Context, a: Node, b: Node) -> ir.Value:
    return context.op("MatMul", context.value(a, context.dtype), context.value(b, context.dtype))


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
