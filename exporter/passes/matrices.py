"""Multiplies by one matrix, not by a copy of it for each sample."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import content, dims, stored

__all__ = ["ShareMatrix"]


class ShareMatrix(ir.passes.InPlacePass):
    """Lets a MatMul read a constant matrix in place of copies of it, which it broadcasts by itself.

    Between the two may lie an Expand, Reshapes that leave the last two dimensions, and Transposes of these two or of the others.

    PyTorch takes a linear layer on a tensor that is not contiguous, an image that was permuted, for products with an expanded matrix. The
    copies were made at each step, and OpenVINO 2026.4.1 gives wrong gradients for the transposed ones of a square matrix.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        turned: dict[ir.Value, ir.Value] = {}
        found = [
            _share(model.graph, node, turned)
            for node in model.graph
            if node.op_type == "MatMul" and dims(node.outputs[0]) is not None
        ]
        return ir.passes.PassResult(model, any(found))


def _share(graph: ir.Graph, node: ir.Node, turned: dict[ir.Value, ir.Value]) -> bool:
    batch = (dims(node.outputs[0]) or ())[:-2]
    for index in range(2):
        value, other = node.inputs[index], dims(node.inputs[1 - index])
        source = None if value is None else _copied(value)
        if source is None or other is None or other[:-2] != batch:
            continue
        matrix, transposed = source
        if transposed and matrix not in turned:
            array = content(matrix)
            assert array is not None
            turned[matrix] = stored(graph, np.ascontiguousarray(array.T), f"{matrix.name}.transposed")
        node.replace_input_with(index, turned[matrix] if transposed else matrix)
        return True
    return False


def _copied(value: ir.Value) -> tuple[ir.Value, bool] | None:
    """The constant matrix that each of the last two dimensions' matrices of a value is, and whether it is transposed."""
    transposed = False
    while (producer := value.producer()) is not None and producer.op_type in ("Reshape", "Transpose"):
        source, before, after = producer.inputs[0], dims(producer.inputs[0]), dims(value)
        if source is None or before is None or after is None or len(before) < 2 or len(after) < 2:
            return None
        if producer.op_type == "Reshape":
            if before[-2:] != after[-2:]:
                return None
        else:
            *_, row, column = producer.attributes["perm"].as_ints()
            last = len(before) - 1
            if {row, column} != {last - 1, last}:
                return None
            transposed ^= row == last
        value = source
    source = producer.inputs[0] if producer is not None and producer.op_type == "Expand" else None
    array, after = content(source), dims(value)
    if source is None or array is None or array.ndim != 2 or after is None or after[-2:] != array.shape:
        return None
    return source, transposed
