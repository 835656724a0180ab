"""Finds which features of a steps' graph may come as one row that all samples share, and says so in the graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from .passes.dependence import varying
from .passes.graph import dims

__all__ = ["led_by_batch", "led_by_one_row", "may_be_one_row"]

_ROWS = "conditions"
"""Name of the number of rows of such a feature, 1 or the batch: engines lay out memory by these names."""

_BY_ELEMENT = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"}
_BROADCASTING = {
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Max", "Min", "Mul", "Or", "Sub", "Where",
}  # fmt: skip
"""Operations that repeat an operand of one row for all rows of another one, with the same bits. Pow does not: onnxruntime takes an exponent that
is one number in another way than an array of them."""


def may_be_one_row(graph: ir.Graph, features: Collection[str], *, joins_rows: bool = False) -> list[str]:
    """The features that only operations read which broadcast: [1, ...] in their place gives the same as that row for each sample.

    Keys and values of 64 places of an image, read once for all 512 candidates of a policy and not 512 times, make a step 1.5 times as
    fast with OpenVINO.

    Args:
        graph: the steps' part of a score graph, with a symbolic batch; else there are none.
        features: names of its inputs that a prologue makes.
        joins_rows: whether the target makes one product [B*m, k] x [k, n] of [B, m, k] x [1, k, n], as onnxruntime does. Its sums are others
            than those of B products, so that such a feature has a row for each sample.
    """
    batch = (dims(next(value for value in graph.inputs if value.name == "x")) or (0,))[0]
    if not isinstance(batch, str):
        return []
    changing = varying(graph)
    return [
        value.name or ""
        for value in graph.inputs
        if value.name in features
        and all(
            _broadcasts(use.node, use.idx, batch, changing) and not (joins_rows and _is_one_matrix(use.node, use.idx))
            for one in _with_copies(value)
            for use in one.uses()
            if not _is_copy(use.node)
        )
    ]


def led_by_one_row(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy whose inputs of these names, and what is made of them row by row, have a number of rows of their own."""
    return _led(model, names, _ROWS)


def led_by_batch(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy whose inputs of these names have a row for each sample again."""
    x = next(value for value in model.graph.inputs if value.name == "x")
    return _led(model, names, (dims(x) or (0,))[0])


def _led(model: ir.Model, names: Iterable[str], rows: int | str) -> ir.Model:
    copy, wanted = model.clone(), set(names)  # weights stay those of the whole
    for given in copy.graph.inputs:
        if given.name in wanted:
            for value in _with_copies(given):
                value.shape = ir.Shape([rows, *list(value.shape or ())[1:]])
    return copy


def _with_copies(value: ir.Value) -> list[ir.Value]:
    """A value and what is made of it row by row."""
    found = [value]
    for one in found:  # grows while it is walked
        found += [use.node.outputs[0] for use in one.uses() if _is_copy(use.node)]
    return found


def _is_copy(node: ir.Node) -> bool:
    """Whether a node makes each row of its output of one row of its first input alone."""
    if node.outputs[0].is_graph_output():
        return False
    turn = node.attributes["perm"].as_ints() if node.op_type == "Transpose" else ()
    return node.op_type in _BY_ELEMENT or tuple(turn[:1]) == (0,)


def _broadcasts(node: ir.Node, place: int, batch: str, changing: Collection[ir.Value]) -> bool:
    """Whether a node repeats one row of an input for all samples."""
    shape = dims(node.inputs[place])
    if shape is None or (node.op_type == "MatMul" and len(shape) < 3):
        return False
    others = [value for index, value in enumerate(node.inputs) if index != place and value in changing]
    aligned = any(
        (found := dims(value)) is not None and len(found) == len(shape) and found[0] == batch for value in others
    )
    return node.op_type in _BROADCASTING and aligned


def _is_one_matrix(node: ir.Node, place: int) -> bool:
    """Whether an input of one row would be a product's second factor, and no stack of matrices."""
    shape = dims(node.inputs[place])
    assert shape is not None
    return node.op_type == "MatMul" and place == 1 and all(size == 1 for size in shape[1:-2])
