"""Leaves broadcasting to the operations that do it anyway."""

from __future__ import annotations

import onnx_ir as ir

from .graph import content, dims, insert, replace

__all__ = ["DropExpand"]

_ELEMENTWISE = {
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Or", "Pow",
    "Sub", "Where", "Xor",
}  # fmt: skip
_UNARY = {"Abs", "Cast", "Exp", "Log", "Neg", "Not", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Tanh"}


class DropExpand(ir.passes.InPlacePass):
    """Removes Expand before elementwise operations.

    1. An operand that is an Expand is read unexpanded where the other operands alone give the output its shape.
    2. Where they do not (`Expand(x) * constant`), the operation runs on the small tensor and the Expand follows it,
       so that it meets the next operation. Only when every other operand is a constant, or it has none.
    3. An Expand that is a graph output, or is read by anything else, stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type in _ELEMENTWISE or node.op_type in _UNARY:
                modified |= self._treat(node)
        return ir.passes.PassResult(model, modified)

    def _treat(self, node: ir.Node) -> bool:
        out = dims(node.outputs[0])
        for index, value in enumerate(node.inputs):
            producer = None if value is None else value.producer()
            if producer is None or producer.op_type != "Expand" or out is None:
                continue
            source = producer.inputs[0]
            others = [dims(other) for i, other in enumerate(node.inputs) if i != index and other is not None]
            small = dims(source)
            if small is None or None in others:
                continue
            narrow = _broadcast([small, *(shape for shape in others if shape is not None)])
            if narrow == out:
                node.replace_input_with(index, source)
                return True
            constant = all(content(other) is not None for i, other in enumerate(node.inputs) if i != index)
            if narrow is not None and constant and len(narrow) == len(out):
                self._swap(node, index, producer, narrow)
                return True
        return False

    def _swap(self, node: ir.Node, index: int, expand: ir.Node, narrow: tuple[int | str, ...]) -> None:
        inputs = list(node.inputs)
        inputs[index] = expand.inputs[0]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        like = node.outputs[0]
        small = insert(
            node, node.op_type, inputs, like=like, name=f"{node.name}.narrow", shape=list(narrow), **attributes
        )
        wide = insert(node, "Expand", [small, expand.inputs[1]], like=like, name=f"{node.name}.expand")
        replace(node, wide)


def _broadcast(shapes: list[tuple[int | str, ...]]) -> tuple[int | str, ...] | None:
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            return None
        result.append(wide.pop() if wide else 1)
    return tuple(result)
