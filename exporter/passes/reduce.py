"""Keeps a reduction and the constants behind it apart, for a backend that applies them along the wrong axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import content, dims, insert, replace, sole_user, stored

__all__ = ["KeepReducedDims"]


class KeepReducedDims(ir.passes.InPlacePass):
    """Writes reductions in forms whose results OpenVINO does not join with the constants that meet them.

    1. `Reduce*(x, axes, keepdims=0)` becomes the same with keepdims=1, then a Reshape to the shape it had.
    2. `Reduce*(x, axes, keepdims=1)` of a tensor with three dimensions, where the chain of operations that alone read
       the result meets a constant of more than one number, becomes one of x [.., 1] over `axes` and the last
       dimension, then a Reshape to the shape it had.
    3. One over all dimensions, of unknown shape, or with more than one symbolic dimension left, stays.

    OpenVINO 2026.4.1 on CPUs joins an elementwise operation with a constant into the reduction before it. Where the
    result is [B, n, 1], or [B, n] in rule 1, it then takes the constant's n numbers along the batch: the weights of a
    mixture go to the wrong components for every batch above one. Seen with every kind of reduction, and with Add, Sub,
    Mul and Div on either side; not with Where, nor with four dimensions. A Reshape that changes the number of
    dimensions keeps the two apart; one that OpenVINO sees to be of no use does not. Rule 2 is not for every reduction,
    since the statistics of a layer norm are read by no such constant, and OpenVINO has one operation for them as they
    are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type.startswith("Reduce"):
                modified |= self._split(model.graph, node)
        return ir.passes.PassResult(model, modified)

    def _split(self, graph: ir.Graph, node: ir.Node) -> bool:
        source, out = dims(node.inputs[0]), dims(node.outputs[0])
        axes = content(node.inputs[1]) if len(node.inputs) > 1 else None
        keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
        if source is None or not out or axes is None or sum(isinstance(size, str) for size in out) > 1:
            return False
        if keeps and (len(source) != 3 or not _meets_constant(node.outputs[0])):
            return False
        dropped = {int(axis) % len(source) for axis in axes}
        kept = [1 if axis in dropped else size for axis, size in enumerate(source)]
        like, inputs = node.outputs[0], list(node.inputs)
        if keeps:
            last = stored(graph, np.array([len(source)], np.int64), f"{node.name}.last")
            shape = [*source, 1]
            inputs[0] = insert(node, "Unsqueeze", [inputs[0], last], like=like, name=f"{node.name}.wide", shape=shape)
            more = np.array([*sorted(dropped), len(source)], np.int64)
            inputs[1] = stored(graph, more, f"{node.name}.axes")
            kept.append(1)
        wide = insert(node, node.op_type, inputs, like=like, name=f"{node.name}.kept", shape=kept, keepdims=1)
        target = np.array([-1 if isinstance(size, str) else size for size in out], np.int64)
        narrow = insert(
            node,
            "Reshape",
            [wide, stored(graph, target, f"{node.name}.shape")],
            like=like,
            name=f"{node.name}.reshaped",
        )
        replace(node, narrow)
        return True


def _meets_constant(value: ir.Value) -> bool:
    """Whether the operations that alone read a value, one after another, take a constant of more than one number."""
    while (user := sole_user(value)) is not None and len(user.outputs) == 1:
        others = [content(other) for other in user.inputs if other is not None and other is not value]
        if any(other is not None and other.size > 1 and other.dtype.kind == "f" for other in others):
            return True
        if any(other is None for other in others) or user.op_type == "Reshape":  # another value, another shape
            return False
        value = user.outputs[0]
    return False
