"""Typed FP16 and BF16 versions of a float32 score graph, and which of its layers stay in float32."""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from .passes.graph import content

__all__ = ["LOW_TYPES", "keep_in_float32", "kept_in_float32", "typed"]

LOW_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
"""Low precisions and their ONNX types."""

_KEPT = "ebm_export.keeps"
"""Metadata of a node that stays in float32, whatever the rest of its graph is lowered to."""

_NUMPY = {ir.DataType.FLOAT16: np.dtype(np.float16), ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}

# The first opset whose convolutions and pools take the type; nothing else in a score graph changed up to it.
_OPSETS = {ir.DataType.FLOAT16: 20, ir.DataType.BFLOAT16: 22}

_COMPUTE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_REDUCTIONS = {
    "CumSum", "LogSoftmax", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax",
}  # fmt: skip
# Their products overflow or lose most bits before a reduction gets to see them.
_BEFORE_REDUCTION = {"Abs", "Exp", "Mul", "Pow"}
# Elementwise, so a last one before the border can run in float32 without dragging a convolution along.
_TAIL = {
    "Add", "Concat", "Expand", "Identity", "Mul", "Neg", "Pad", "Reshape", "Slice", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
# Inputs whose type does not follow the data.
_FIXED_INPUTS = {"Resize": {1, 2, 3}}


def keep_in_float32(model: ir.Model, names: Collection[str]) -> None:
    """Marks nodes, by name, that no lowering is to touch; whoever writes a graph in a low precision looks at the marks."""
    for node in model.graph:
        if node.name in names:
            node.metadata_props[_KEPT] = "fp32"


def kept_in_float32(graph: ir.Graph) -> list[ir.Node]:
    """Returns the nodes that are marked."""
    return [node for node in graph if _is_kept(node)]


def typed(model: ir.Model, precision: str) -> ir.Model:
    """A copy of a float32 score graph, or of a prologue, with its work in FP16 or BF16 and float32 at the border.

    1. Convolutions and matrix products run in the low type. What follows from their results runs in it too.
    2. Reductions (and a square or exponential that only a reduction reads) run in float32, as does the energy head:
       every node that only the energy needs.
    3. What is computed from float32 values alone (the state before the first layer, the statistics of a norm, the
       gradient scale before the last layer's weights) stays float32; nothing is rounded before it meets a layer.
    4. The last additions before `grad` run in float32, and so do nodes that `keep_in_float32` marked.
    5. g u / (1 + u) of an exponential u, as PyTorch writes the gradient of softplus, runs in float32: rounded at each of its four
       operations it is off by twice as much as at its end alone, and in FP16 it is infinity / infinity from u = 65504 on.

    The graph is strongly typed: every change of type is a Cast, as TensorRT wants it.

    Args:
        model: a lowered float32 graph; not changed.
        precision: "fp16" or "bf16".

    Returns:
        The typed copy, with the same inputs and outputs, in the types that they had.
    """
    low = LOW_TYPES[precision]
    copy = ir.from_proto(ir.to_proto(model))
    wide = _float32_nodes(copy.graph)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(copy.graph):
        if _is_data(node):
            _retype(copy.graph, node, ir.DataType.FLOAT if node in wide else low, casts)
    for output in copy.graph.outputs:
        _restore_output(copy.graph, output)
    copy.graph.opset_imports[""] = max(copy.graph.opset_imports[""], _OPSETS[low])
    for cleanup in (CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass()):
        cleanup(copy)
    return copy


def _is_data(node: ir.Node) -> bool:
    """Whether a node computes or carries floating-point data."""
    return any(value.dtype == ir.DataType.FLOAT for value in (*node.inputs, *node.outputs) if value is not None)


def _float32_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that run in float32, by the rules of `typed`."""
    gradient: set[ir.Node] = set().union(*(_ancestors(output) for output in graph.outputs if output.name != "energy"))
    wide: set[ir.Node] = {node for node in graph if node not in gradient or _reduces(node) or _is_kept(node)}
    tail: set[ir.Node] = set()
    nodes = list(graph)
    for node in reversed(nodes):
        users = [use.node for use in node.outputs[0].uses()] if len(node.outputs) == 1 else []
        if node.op_type in _BEFORE_REDUCTION and users and all(_reduces(user) for user in users):
            wide.add(node)
        last = node.outputs[0].name == "grad" or (bool(users) and all(user in wide and user in tail for user in users))
        if node.op_type in _TAIL and last:
            wide.add(node)
            tail.add(node)
        wide |= _logistic(node)
    for node in nodes:
        if node in wide or node.op_type in _COMPUTE or not _is_data(node):
            continue
        data = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
        computed = [value for value in data if content(value) is None]
        if all(value.producer() is None or value.producer() in wide for value in computed):
            wide.add(node)
    return wide


def _logistic(node: ir.Node) -> set[ir.Node]:
    """The nodes of g u / (1 + u) or g / (1 + u), u an exponential, where this one is its division; else none."""
    below = node.inputs[1].producer() if node.op_type == "Div" and node.inputs[1] is not None else None
    if below is None or below.op_type != "Add":
        return set()
    terms = [value.producer() for value in below.inputs if value is not None]
    powers = [term for term in terms if term is not None and term.op_type == "Exp"]
    above = node.inputs[0].producer() if node.inputs[0] is not None else None
    if not powers:
        return set()
    has_power = above is not None and above.op_type == "Mul" and powers[0].outputs[0] in above.inputs
    return {node, below, powers[0], *([above] if above is not None and has_power else [])}


def _is_kept(node: ir.Node) -> bool:
    return _KEPT in node.metadata_props


def _reduces(node: ir.Node) -> bool:
    """Whether a node sums or picks over many numbers; a scatter that adds does, and onnxruntime has none in FP16."""
    return node.op_type in _REDUCTIONS or node.attributes.get_string("reduction", "none") != "none"


def _ancestors(value: ir.Value) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [source.producer() for source in node.inputs if source is not None]
    return found


def _retype(
    graph: ir.Graph, node: ir.Node, dtype: ir.DataType, casts: dict[tuple[ir.Value, ir.DataType], ir.Value]
) -> None:
    fixed = _FIXED_INPUTS.get(node.op_type, set())
    for index, value in enumerate(node.inputs):
        if value is None or index in fixed or value.dtype not in (ir.DataType.FLOAT, *_NUMPY) or value.dtype == dtype:
            continue
        key = (value, dtype)
        if key not in casts:
            casts[key] = _stored(graph, value, dtype) if content(value) is not None else _cast(node, value, dtype)
        node.replace_input_with(index, casts[key])
    if node.op_type == "Cast":
        if node.outputs[0].dtype == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", dtype.value)
            node.outputs[0].dtype = dtype
        return
    for output in node.outputs:
        if output.dtype == ir.DataType.FLOAT:
            output.dtype = dtype


def _stored(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    array = content(value)
    assert array is not None
    if dtype == ir.DataType.FLOAT:
        return value
    limits = ml_dtypes.finfo(_NUMPY[dtype])
    # A mask of -inf stays; a finite constant must not become infinite.
    kept = np.where(np.isfinite(array), np.clip(array, float(limits.min), float(limits.max)), array)
    name = f"{value.name}.{dtype.name.lower()}"
    new = ir.val(name, const_value=ir.tensor(kept.astype(_NUMPY[dtype]), dtype=dtype, name=name))
    new.dtype, new.shape = dtype, value.shape
    graph.register_initializer(new)
    return new


def _cast(before: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    # After the producer, so that every reader can share it.
    name = f"{value.name}.{dtype.name.lower()}"
    node = ir.node("Cast", [value], {"to": dtype.value}, name=name)
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = name, dtype, value.shape
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), node)
    else:
        graph.insert_after(producer, node)
    return node.outputs[0]


def _restore_output(graph: ir.Graph, output: ir.Value) -> None:
    """Gives a graph output its float32 back, where it was made low; a prologue's may be whole numbers and truth values."""
    if output.dtype not in LOW_TYPES.values():
        return
    producer = output.producer()
    assert producer is not None
    name, low = output.name, output.dtype
    cast = ir.node("Cast", [output], {"to": ir.DataType.FLOAT.value}, name=f"{name}.float")
    new = cast.outputs[0]
    new.dtype, new.shape = ir.DataType.FLOAT, output.shape
    graph.insert_after(producer, cast)
    graph.outputs[list(graph.outputs).index(output)] = new
    assert low is not None
    output.name = f"{name}.{low.name.lower()}"
    new.name = name
