"""Keeps reduced dimensions, for a backend that adds constants to a reduced tensor along the wrong axis."""

from __future__ import annotations

import onnx_ir as ir

from .graph import content, dims, insert, replace, stored

__all__ = ["KeepReducedDims"]


class KeepReducedDims(ir.passes.InPlacePass):
    """Splits a reduction that drops dimensions into one that keeps them and a Reshape.

    1. `Reduce*(x, axes, keepdims=0)` becomes the same with keepdims=1, then a Reshape to the shape it had.
    2. One over all dimensions, of unknown shape, or with more than one symbolic dimension left, stays.

    OpenVINO 2026.4.1 on CPUs fuses a constant that is added to a reduced tensor into the reduction, on the wrong axis:
    the weights of a mixture then go to the wrong components for every batch above one.
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
        if keeps or source is None or not out or axes is None or sum(isinstance(size, str) for size in out) > 1:
            return False
        dropped = {int(axis) % len(source) for axis in axes}
        kept = [1 if axis in dropped else size for axis, size in enumerate(source)]
        like = node.outputs[0]
        wide = insert(node, node.op_type, node.inputs, like=like, name=f"{node.name}.kept", shape=kept, keepdims=1)
        target = [-1 if isinstance(size, str) else size for size in out]
        shape = stored(graph, ir.tensor(target, dtype=ir.DataType.INT64).numpy(), f"{node.name}.shape")
        narrow = insert(node, "Reshape", [wide, shape], like=like, name=f"{node.name}.reshaped")
        replace(node, narrow)
        return True
