"""Makes a graph typed FP16 or BF16 run on a backend that lacks kernels for the low type, with the low type's numbers.

onnxruntime's CPU provider has no BF16 kernels for arithmetic (NOT_IMPLEMENTED when the session is made), and on x86 it
runs an FP16 graph in float32 from end to end: it drops the casts between two nodes, so that nothing overflows which
would overflow on a GPU. `emulate` writes the roundings down as Cast nodes that stay.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from ..runtime.errors import UnsupportedOperation

__all__ = ["emulate"]

_LOW = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

# Their results are numbers that they were given, or the negative of one, so rounding them again would change nothing.
_EXACT = frozenset(
    [
        "Abs",
        "Clip",
        "Compress",
        "Concat",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Max",
        "MaxPool",
        "Min",
        "Neg",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    ]
)


def emulate(model: onnx.ModelProto, *, rounding: bool = True) -> onnx.ModelProto:
    """Rewrites a typed graph so that every node computes in float32.

    1. A low-precision constant keeps its type in the file and is widened by a Cast where it is used.
    2. A node with low-precision results computes them in float32; with `rounding` each is then rounded to the low
       type and widened again. That is what an engine does that accumulates in float32 and stores each result in
       the low type. An engine that fuses nodes rounds less often, so the emulation errs on the far side.
    3. A Cast to the low type is one rounding; without `rounding` it goes.
    4. Nodes that touch no low-precision value are left alone, as are those that hand on the numbers they are
       given (they compute in float32, and no rounding follows).

    Subgraphs and functions are refused: a score graph has none. Inputs and outputs are float32 by contract.

    Args:
        model: a typed score graph; it is not changed.
        rounding: False leaves weights rounded to the low type and float32 arithmetic between them, which is what
            onnxruntime makes of FP16 on x86 and OpenVINO of a low type that the CPU does not have.

    Returns:
        the rewritten model, or an equal copy where nothing is typed low.

    Raises:
        UnsupportedOperation: a subgraph, a function, or a value whose type shape inference cannot tell.
    """
    graph_model = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    graph = graph_model.graph
    if graph_model.functions:
        raise UnsupportedOperation("emulation of a low precision does not go into ONNX functions: inline them first")
    for value in (*graph.inputs, *graph.outputs):
        if value.dtype in _LOW:
            raise UnsupportedOperation(f"the graph's border is float32; {value.name!r} is {value.dtype}")
    for value in tuple(graph.initializers.values()):
        if value.dtype in _LOW:
            _widen(graph, value, after=None)
    for node in tuple(graph):
        _rewrite(graph, node, rounding)
    return ir.to_proto(graph_model)


def _rewrite(graph: ir.Graph, node: ir.Node, rounding: bool) -> None:
    """Makes one node compute in float32. Its low-precision inputs have been widened when the loop gets here."""
    if any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in _attributes(node)):
        raise UnsupportedOperation(
            f"emulation of a low precision does not go into subgraphs; node {node.name!r} ({node.op_type}) has one"
        )
    low = [value for value in node.outputs if _type(node, value) in _LOW]
    if node.op_type in ("Cast", "CastLike"):
        if low:
            _round_cast(graph, node, rounding)
        return
    if not low:
        return
    if node.op_type == "Constant":
        _widen(graph, node.outputs[0], after=node)
        return
    for attribute in _attributes(node):
        _widen_attribute(node, attribute)
    for value in low:
        narrow = value.dtype
        assert narrow is not None
        value.dtype = ir.DataType.FLOAT
        if rounding and node.op_type not in _EXACT:
            uses = tuple(value.uses())
            down = _cast(value, narrow, f"{value.name}_rounded")
            up = _cast(down.outputs[0], ir.DataType.FLOAT, f"{value.name}_widened")
            graph.insert_after(node, (down, up))
            _redirect(uses, up.outputs[0])


def _round_cast(graph: ir.Graph, node: ir.Node, rounding: bool) -> None:
    """Turns a Cast to the low type into a rounding of a float32 value, or, without rounding, into a Cast to float32."""
    result = node.outputs[0]
    narrow = result.dtype
    assert narrow is not None and node.inputs[0] is not None
    if not rounding:
        up = _cast(node.inputs[0], ir.DataType.FLOAT, f"{result.name}_widened")
        graph.insert_after(node, up)
        _redirect(tuple(result.uses()), up.outputs[0])
        graph.remove(node, safe=True)
        return
    if node.op_type == "CastLike":
        # What it is like has been widened: the type must be said.
        down = _cast(node.inputs[0], narrow, f"{result.name}_rounded")
        graph.insert_after(node, down)
        _redirect(tuple(result.uses()), down.outputs[0])
        graph.remove(node, safe=True)
        node, result = down, down.outputs[0]
    _widen(graph, result, after=node)


def _widen(graph: ir.Graph, value: ir.Value, *, after: ir.Node | None) -> None:
    """Hands a low-precision value to its users through a Cast to float32, made after a node or at the start."""
    uses = tuple(value.uses())
    if not uses:
        return
    up = _cast(value, ir.DataType.FLOAT, f"{value.name}_widened")
    if after is not None:
        graph.insert_after(after, up)
    elif len(graph):
        graph.insert_before(graph[0], up)
    _redirect(uses, up.outputs[0])


def _redirect(uses: Iterable[tuple[ir.Node, int]], value: ir.Value) -> None:
    for node, index in uses:
        node.replace_input_with(index, value)


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=name)
    result = node.outputs[0]
    result.name, result.dtype, result.shape = name, dtype, value.shape
    return node


def _widen_attribute(node: ir.Node, attribute: ir.Attr) -> None:
    """A low type can be in two kinds of attribute: a type by number (`dtype`) and a tensor (ConstantOfShape)."""
    if attribute.name == "dtype" and attribute.as_int() in {dtype.value for dtype in _LOW}:
        node.attributes["dtype"] = ir.AttrInt64("dtype", ir.DataType.FLOAT.value)
    elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _LOW:
        wide = ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
        node.attributes[attribute.name] = ir.AttrTensor(attribute.name, wide)


def _attributes(node: ir.Node) -> tuple[ir.Attr, ...]:
    return tuple(node.attributes.values())


def _type(node: ir.Node, value: ir.Value) -> ir.DataType | None:
    """The type of a node's result; None for a result that is left out."""
    if value.dtype is None and value.name and (value.uses() or value.is_graph_output()):
        raise UnsupportedOperation(
            f"shape inference does not know the type of {value.name!r} of node {node.name!r} ({node.op_type})"
        )
    return value.dtype
