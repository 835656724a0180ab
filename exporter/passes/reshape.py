"""Removes shape changes that cancel."""

from __future__ import annotations

import onnx_ir as ir

from .graph import dims, replace

__all__ = ["MergeReshapes"]


class MergeReshapes(ir.passes.InPlacePass):
    """Merges chains of Reshape and of Transpose.

    1. `Reshape(x)` to the shape that x has is x.
    2. `Reshape(Reshape(x))` is one Reshape of x; the first stays where something else reads it.
    3. `Transpose` that moves nothing is its input; of two in a row one is made.
    4. A Transpose that only moves dimensions of size 1 past others is a Reshape, so rule 2 sees it.

    A shape that is not known, or with more than one symbolic dimension, is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph:
            if node.op_type == "Reshape":
                modified |= self._reshape(node)
            elif node.op_type == "Transpose":
                modified |= self._transpose(node)
        return ir.passes.PassResult(model, modified)

    def _reshape(self, node: ir.Node) -> bool:
        source, out = node.inputs[0], node.outputs[0]
        assert source is not None
        if dims(source) is not None and dims(source) == dims(out):
            if out.is_graph_output() and source.producer() is None:
                return False
            replace(node, source)
            return True
        producer = source.producer()
        if producer is None or producer.op_type != "Reshape" or not _one_symbol(out):
            return False
        node.replace_input_with(0, producer.inputs[0])
        return True

    def _transpose(self, node: ir.Node) -> bool:
        source, out = node.inputs[0], node.outputs[0]
        assert source is not None
        perm = list(node.attributes["perm"].as_ints())
        if perm == list(range(len(perm))) and not out.is_graph_output():
            replace(node, source)
            return True
        producer = source.producer()
        if producer is not None and producer.op_type == "Transpose":
            first = producer.attributes["perm"].as_ints()
            node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in perm])
            node.replace_input_with(0, producer.inputs[0])
            return True
        shape = dims(source)
        if shape is None or not _one_symbol(out):
            return False
        moved = [axis for axis in perm if shape[axis] != 1]
        if moved != sorted(moved):
            return False
        target = ir.tensor([size if isinstance(size, int) else -1 for size in dims(out) or ()], dtype=ir.DataType.INT64)
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        constant = ir.val(f"{node.name}.shape", const_value=target)
        constant.dtype, constant.shape = ir.DataType.INT64, ir.Shape([len(perm)])
        graph.register_initializer(constant)
        reshape = ir.node("Reshape", [source, constant], name=f"{node.name}.reshape")
        reshape.outputs[0].name = f"{node.name}.reshape"
        reshape.outputs[0].type, reshape.outputs[0].shape = out.type, out.shape
        graph.insert_before(node, reshape)
        replace(node, reshape.outputs[0])
        return True


def _one_symbol(value: ir.Value) -> bool:
    shape = dims(value)
    return shape is not None and sum(isinstance(size, str) for size in shape) <= 1 and 0 not in shape
