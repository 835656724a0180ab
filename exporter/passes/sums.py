"""Adds up beside the batch by a matrix product, for a backend that adds in another order where the batch is one."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from .graph import content, dims, insert, replace, stored

__all__ = ["SumByProduct"]


class SumByProduct(ir.passes.InPlacePass):
    """Makes products with a row of ones of the sums and means over the axes right behind the batch that leave axes behind them.

    onnxruntime merges axes of size 1 into the next before it chooses how to add: of [B, R, K] over R it adds the columns of each sample,
    and of [1, R, K] all rows one after another, so that a sample had other last digits by itself. It was so with a mean over
    channels, over tokens or over the points of a set. A product is one of each sample, whatever the batch; it takes up to 1.8 times as long
    as the sum, which is a small part of a network.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph if _is_beside_the_batch(node)]
        for node in found:
            _multiply(model.graph, node)
        return ir.passes.PassResult(model, bool(found))


def _is_beside_the_batch(node: ir.Node) -> bool:
    if node.op_type not in ("ReduceMean", "ReduceSum") or node.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    sizes, axes = dims(node.inputs[0]), _axes(node)
    if sizes is None or dims(node.outputs[0]) is None or not axes or axes != list(range(axes[0], axes[-1] + 1)):
        return False
    before, within = sizes[: axes[0]], sizes[axes[0] :]
    # A product of the batch and a number, which has another name, is never one.
    may_be_one = any(isinstance(size, str) for size in before) and all(
        size == 1 if isinstance(size, int) else size.isidentifier() for size in before
    )
    return may_be_one and axes[-1] < len(sizes) - 1 and all(isinstance(size, int) for size in within)


def _axes(node: ir.Node) -> list[int]:
    axes, sizes = content(node.inputs[1]) if len(node.inputs) > 1 else None, dims(node.inputs[0])
    return [] if axes is None or sizes is None else sorted(int(axis) % len(sizes) for axis in axes.flat)


def _multiply(graph: ir.Graph, node: ir.Node) -> None:
    x, out, axes, sizes = node.inputs[0], node.outputs[0], _axes(node), dims(node.inputs[0])
    assert x is not None and sizes is not None
    batch = next(size for size in sizes[: axes[0]] if isinstance(size, str))
    count = math.prod(int(sizes[axis]) for axis in axes)
    left = math.prod(int(size) for size in sizes[axes[-1] + 1 :])
    shape: list[int | str] = [batch, count, left]
    if list(sizes) != shape:
        to = stored(graph, np.array([-1, count, left], np.int64), f"{node.name}.columns.shape")
        x = insert(node, "Reshape", [x, to], like=x, name=f"{node.name}.columns", shape=shape)
    ones = stored(graph, np.ones((1, count), np.float32), f"{node.name}.ones")
    total = insert(node, "MatMul", [ones, x], like=out, name=f"{node.name}.total", shape=[batch, 1, left])
    if node.op_type == "ReduceMean":
        number = stored(graph, np.array(count, np.float32), f"{node.name}.count")
        total = insert(node, "Div", [total, number], like=out, name=f"{node.name}.mean", shape=[batch, 1, left])
    wanted = dims(out)
    assert wanted is not None
    if list(wanted) != [batch, 1, left]:
        to = stored(
            graph, np.array([-1 if isinstance(size, str) else size for size in wanted], np.int64), f"{node.name}.shape"
        )
        total = insert(node, "Reshape", [total, to], like=out, name=f"{node.name}.reshaped")
    replace(node, total)
