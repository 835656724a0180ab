"""Whole numbers of 8 and 16 bits: engines compute them in 32, and their overflow is written out."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch.fx import Node

from ..score_graph import GIVEN
from .table import Context

__all__ = ["is_entry", "wrapped"]

aten = torch.ops.aten

# Their results are numbers that they were given, so they cannot leave the range.
_KEEPS = {
    aten.alias.default, aten.amax.default, aten.amin.default, aten.cat.default, aten.clone.default,
    aten.expand.default, aten.flip.default, aten.gather.default, aten.index.Tensor, aten.index_select.default,
    aten.max.default, aten.maximum.default, aten.min.default, aten.minimum.default, aten.permute.default,
    aten.relu.default, aten.reshape.default, aten.select.int, aten.slice.Tensor, aten.squeeze.dims,
    aten.stack.default, aten.transpose.int, aten.unsqueeze.default, aten.view.default,
}  # fmt: skip


def is_entry(node: Node) -> bool:
    """Whether a node gives a graph input the type that the user's forward is given; such numbers are in its range.

    `trace` puts that cast in front of the model where the two types differ, and notes the type on the placeholder; a
    cast that the model makes itself of an input that it is given as it is truncates and wraps.
    """
    source = node.args[0] if node.args else None
    if node.target is not aten._to_copy.default or not isinstance(source, Node):
        return False
    return bool(source.meta.get(GIVEN) == node.meta["val"].dtype)


def wrapped(context: Context, value: ir.Value) -> ir.Value:
    """The INT32 result of an operation, brought back into the range of its type in PyTorch.

    Sums, differences, products and negatives of whole numbers are right modulo 2^n whatever was dropped before, and
    the types wrap modulo 2^n. 32 and 64 bits need nothing: engines wrap them as PyTorch does.

    Args:
        context: the operation.
        value: what its rule gave.
    """
    dtype = context.node.meta["val"].dtype
    if dtype not in (torch.uint8, torch.int8, torch.int16) or context.node.target in _KEEPS or is_entry(context.node):
        return value
    limits = torch.iinfo(dtype)
    if limits.min:
        value = context.op("Sub", value, context.value(limits.min))
    value = context.op("Mod", value, context.value(limits.max - limits.min + 1))  # takes the divisor's sign
    return context.op("Add", value, context.value(limits.min)) if limits.min else value
