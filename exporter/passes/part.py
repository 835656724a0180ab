"""Parts products of what changes along a chain and what does not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .dependence import varying
from .graph import content, dims, insert, replace, sole_user, stored

__all__ = ["PartProducts", "SliceProducts"]


class PartProducts(ir.passes.InPlacePass):
    """Parts a layer that reads a condition beside x, so that the condition's share is worked out once per chain.

    1. `MatMul(Concat(c, a), W)` becomes `MatMul(c, W_c) + MatMul(a, W_a)`, and Gemm and Conv likewise, whose bias stays with c.
    2. The concatenation is along what the product sums over: the last dimension of MatMul and Gemm, the channels of Conv.
    3. W is constant; a Gemm is a plain one (alpha and beta 1, nothing transposed), a Conv has one group.
    4. Some parts depend on x or grad_scale and some do not, and nothing else reads the concatenation. Anything else stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changing = varying(model.graph)
        modified = False
        for node in list(model.graph):
            if node.op_type in ("MatMul", "Gemm", "Conv"):
                modified |= _part(model.graph, node, changing)
        return ir.passes.PassResult(model, modified)


class SliceProducts(ir.passes.InPlacePass):
    """Drops columns of a weight whose results nobody reads, as in the gradient of a concatenation.

    1. `Slice(MatMul(g, W))` along the last dimension becomes `MatMul(g, W[:, a:b])`.
    2. `Slice(Conv(g, W))` along the channels becomes `Conv(g, W[a:b])`.
    3. W is constant [K, N], a Conv has one group; the slice takes every number of one range, and nothing else reads the product.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Slice":
                modified |= _narrow(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _part(graph: ir.Graph, node: ir.Node, changing: set[ir.Value]) -> bool:
    source, weight = node.inputs[0], content(node.inputs[1])
    concat = None if source is None else source.producer()
    if (
        source is None
        or concat is None
        or concat.op_type != "Concat"
        or weight is None
        or sole_user(source) is not node
    ):
        return False
    rank = len(dims(source) or ())
    conv = node.op_type == "Conv"
    if not (_is_plain(node) and rank and (conv or weight.ndim == 2)):
        return False
    axis = concat.attributes["axis"].as_int() % rank
    summed = 1 if conv else 0  # the dimension of the weight
    if axis != (1 if conv else rank - 1):
        return False
    parts = [value for value in concat.inputs if value is not None]
    sizes = [(dims(part) or (None,) * rank)[axis] for part in parts]
    if not all(isinstance(size, int) for size in sizes):
        return False
    steady = [index for index, part in enumerate(parts) if part not in changing]
    moving = [index for index, part in enumerate(parts) if part in changing]
    if not steady or not moving:
        return False
    ends = np.cumsum([0, *sizes])
    halves = []
    for label, chosen in (("steady", steady), ("moving", moving)):
        places = np.concatenate([np.arange(ends[index], ends[index + 1]) for index in chosen])
        share = stored(graph, np.take(weight, places, axis=summed), f"{node.inputs[1].name}.{label}")  # type: ignore[union-attr]
        given = parts[chosen[0]]
        if len(chosen) > 1:
            shape = [*(dims(source) or ())]
            shape[axis] = len(places)
            given = insert(
                node,
                "Concat",
                [parts[i] for i in chosen],
                like=source,
                name=f"{source.name}.{label}",
                shape=shape,
                axis=axis,
            )
        halves.append((label, given, share))
    results = []
    for label, given, share in halves:
        rest = list(node.inputs[2:]) if label == "steady" else []
        kind = "MatMul" if node.op_type == "Gemm" and not rest else node.op_type
        attributes = {name: value.value for name, value in node.attributes.items()} if conv else {}
        out = insert(
            node,
            kind,
            [given, share, *rest],
            like=node.outputs[0],
            name=f"{node.outputs[0].name}.{label}",
            **attributes,
        )
        results.append(out)
    total = insert(node, "Add", results, like=node.outputs[0], name=f"{node.outputs[0].name}.parts")
    _take_place(node, total)
    graph.remove(concat, safe=True)
    return True


def _narrow(graph: ir.Graph, slice_: ir.Node) -> bool:
    source = slice_.inputs[0]
    product = None if source is None else source.producer()
    if (
        source is None
        or product is None
        or product.op_type not in ("MatMul", "Conv")
        or sole_user(source) is not slice_
    ):
        return False
    weight, rank = content(product.inputs[1]), len(dims(source) or ())
    arrays = [content(value) for value in slice_.inputs[1:]]
    if weight is None or len(arrays) < 3 or any(array is None or array.size != 1 for array in arrays):
        return False
    start, end, axis, *steps = (int(array.reshape(())) for array in arrays if array is not None)
    conv = product.op_type == "Conv"
    if not (_is_plain(product) and rank and (conv or weight.ndim == 2)) or any(step != 1 for step in steps):
        return False
    if axis % rank != (1 if conv else rank - 1):
        return False
    total = weight.shape[0] if conv else weight.shape[1]
    start, end, _ = slice(start, end).indices(total)
    if start >= end:
        return False
    constants = [value for value in product.inputs[1:] if value is not None]
    if any(content(value) is None for value in constants):
        return False
    for index, value in enumerate(constants, start=1):
        array = content(value)
        assert array is not None
        kept = array[start:end] if conv else array[:, start:end]
        product.replace_input_with(index, stored(graph, np.ascontiguousarray(kept), f"{value.name}.read"))
    product.outputs[0].shape = slice_.outputs[0].shape
    _take_place(slice_, product.outputs[0])
    return True


def _is_plain(node: ir.Node) -> bool:
    if node.op_type == "Conv":
        return node.attributes.get_int("group", 1) == 1
    if node.op_type == "Gemm":
        usual = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
        return all(name not in node.attributes or node.attributes[name].value == value for name, value in usual.items())
    return True


def _take_place(node: ir.Node, value: ir.Value) -> None:
    """Lets a value take a node's place, its name and its origin: errors and calibration speak of layers by them."""
    name, producer = node.outputs[0].name, value.producer()
    assert producer is not None
    producer.metadata_props.update(node.metadata_props)
    replace(node, value)
    value.name = name
