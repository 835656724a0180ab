"""Computes on images in the order of their own axes, not on permuted ones, for a backend that permutes them once more for that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from .graph import content, dims, insert, replace, stored

__all__ = ["KeepOrder"]

_BY_ELEMENT = {
    "Abs", "Add", "And", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Greater", "GreaterOrEqual", "Identity", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt",
    "Sub", "Tanh", "Where",
}  # fmt: skip
_PRODUCTS = {"Gemm", "MatMul"}
_REDUCTIONS = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}


class _Permuted(NamedTuple):
    """What a value is of an image [B, C, *places]: [B, *places, C], or rows of channels. Sizes may be 1 where the image's are not."""

    batch: int | str
    places: tuple[int | str, ...]
    rows: int = 0
    """Number of dimensions of rows, the last of which is that of the channels; 0 for what has the places apart."""

    @property
    def order(self) -> tuple[int, ...]:
        """perm of the Transpose that permutes the image."""
        return (0, *range(2, len(self.places) + 2), 1)

    @property
    def back(self) -> tuple[int, ...]:
        """perm of the one that gives it back."""
        return (0, len(self.places) + 1, *range(1, len(self.places) + 1))


class KeepOrder(ir.passes.InPlacePass):
    """Takes what lies between a Transpose of [B, C, *places] to [B, *places, C] and the one back on [B, C, *places].

    1. What is done number by number is done to the image; constants are turned, and so is what has one place.
    2. A reduction is one over the image's axes.
    3. A product with a constant matrix, of the permuted image or of its rows, is a convolution with a window of one place.
    4. A permuted image that is read in another way stays, and so does all that meets it.

    A norm over the channels of an image, and a layer for each place, are written on permuted images, as `nn.LayerNorm` and `nn.Linear` take
    the last axis. OpenVINO's convolutions have their channels last, which it does not know of a Transpose's result: each such
    norm turned its image there and back. Of a residual network with three, 64 channels and 32x32 places, batch 8, that was a quarter of
    a gradient's time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        permuted = _permuted(model.graph)
        if permuted:
            _to_images(model.graph, permuted)
        return ir.passes.PassResult(model, bool(permuted))


def _permuted(graph: ir.Graph) -> dict[ir.Value, _Permuted]:
    """The values that can be in the order of their image, as can all that they meet."""
    found: dict[ir.Value, _Permuted] = {}
    met: dict[ir.Value, list[ir.Value]] = {}  # both ways
    for node in graph:
        out, views = node.outputs[0], [value for value in node.inputs if value is not None and value in found]
        result = _follows(node, found[views[0]], found) if views else _begins(node)
        if result is not None:
            found[out], met[out] = result, views
            for view in views:
                met[view].append(out)
    lost = [
        value
        for value in found
        if value.is_graph_output() or not all(_can_be_taken(use.node, found) for use in value.uses())
    ]
    return {value: found[value] for value in found.keys() - _reached(lost, met)}


def _begins(node: ir.Node) -> _Permuted | None:
    """What a Transpose makes of an image."""
    before = dims(node.inputs[0]) if node.op_type == "Transpose" else None
    if before is None or len(before) < 4 or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    result = _Permuted(before[0], before[2:])
    return result if "perm" in node.attributes and tuple(node.attributes["perm"].as_ints()) == result.order else None


def _follows(node: ir.Node, view: _Permuted, found: dict[ir.Value, _Permuted]) -> _Permuted | None:
    """What a node makes of permuted images, where it can make it of the images."""
    after = dims(node.outputs[0])
    if after is None:
        return None
    if node.op_type == "Reshape":
        return _between_rows(node, view, after)
    if len(after) != (view.rows or len(view.order)):
        return None
    if node.op_type in _REDUCTIONS:
        return view if _axes(node, view) is not None and _keeps(node) else None
    if node.op_type in _PRODUCTS:
        return view if node.inputs[0] in found and _matrix(node) is not None else None
    taken = node.op_type in _BY_ELEMENT and all(
        value is None or (found[value] == view if value in found else _can_be_turned(value, view))
        for value in node.inputs
    )
    return view if taken else None


def _between_rows(node: ir.Node, view: _Permuted, after: tuple[int | str, ...]) -> _Permuted | None:
    """Rows of a permuted image, or the image of its rows."""
    before = dims(node.inputs[0])
    if before is None or after[-1] != before[-1]:
        return None
    if after[1:-1] == view.places:
        return view._replace(rows=0)
    return view._replace(rows=len(after)) if view.rows or before[1:-1] == view.places else None


def _can_be_turned(value: ir.Value, view: _Permuted) -> bool:
    """Whether a value that is no permuted image is a constant, or has one place and all axes."""
    sizes = dims(value)
    if content(value) is not None:
        return not view.rows or (sizes is not None and all(size == 1 for size in sizes[:-1]))
    return (
        not view.rows and sizes is not None and len(sizes) == len(view.order) and all(size == 1 for size in sizes[1:-1])
    )


def _matrix(node: ir.Node) -> np.ndarray | None:
    """[C, D], the constant that a product multiplies by; None for one that is more than that and a bias for each channel."""
    matrix = content(node.inputs[1])
    if matrix is None or matrix.ndim != 2:
        return None
    if node.op_type == "MatMul":
        return matrix
    numbers = {name: attribute.value for name, attribute in node.attributes.items()}
    if numbers.get("alpha", 1) != 1 or numbers.get("beta", 1) != 1 or numbers.get("transA", 0):
        return None
    matrix = matrix.T if numbers.get("transB", 0) else matrix
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = content(node.inputs[2])
        if bias is None or bias.shape != matrix.shape[1:]:
            return None
    return matrix


def _can_be_taken(user: ir.Node, found: dict[ir.Value, _Permuted]) -> bool:
    """Whether what reads a permuted image can read the image in its place."""
    if user.outputs[0] in found:
        return True
    view = next(found[value] for value in user.inputs if value is not None and value in found)
    if user.op_type == "Transpose":
        return not view.rows and "perm" in user.attributes and tuple(user.attributes["perm"].as_ints()) == view.back
    return user.op_type in _REDUCTIONS and _axes(user, view) is not None and not _keeps(user)


def _axes(node: ir.Node, view: _Permuted) -> list[int] | None:
    """The axes of the image that a reduction is over; None where it would give its result in another order."""
    axes = content(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or axes.size == 0:
        return None
    if view.rows:
        return [1] if _keeps(node) and [int(axis) % view.rows for axis in axes.flat] == [view.rows - 1] else None
    own = {int(axis) % len(view.order) for axis in axes.flat}
    rest = [view.order[axis] for axis in range(len(view.order)) if axis not in own]
    return sorted(view.order[axis] for axis in own) if _keeps(node) or rest == sorted(rest) else None


def _keeps(node: ir.Node) -> bool:
    return "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1


def _reached(first: Iterable[ir.Value], met: dict[ir.Value, list[ir.Value]]) -> set[ir.Value]:
    """These values and all that they meet, one after another."""
    found, waiting = set(first), list(first)
    while waiting:
        for value in met[waiting.pop()]:
            if value not in found:
                found.add(value)
                waiting.append(value)
    return found


def _to_images(graph: ir.Graph, permuted: dict[ir.Value, _Permuted]) -> None:
    images: dict[ir.Value, ir.Value] = {}  # of permuted ones
    turned: dict[tuple[ir.Value, _Permuted], ir.Value] = {}  # what they meet
    old: list[ir.Node] = []
    for node in list(graph):
        out = node.outputs[0]
        if out in permuted:
            old.append(node)
            images[out] = _image(graph, node, permuted, images, turned)
            continue
        view = next((value for value in node.inputs if value is not None and value in permuted), None)
        if view is not None:
            back = node.op_type == "Transpose"
            replace(node, images[view] if back else _reduced(graph, node, permuted[view], images[view], None))
    for node in reversed(old):
        constants = [value for value in node.inputs if value is not None and content(value) is not None]
        graph.remove(node, safe=True)
        for value in constants:
            if not value.uses() and value.name is not None:
                graph.initializers.pop(value.name, None)


def _image(
    graph: ir.Graph,
    node: ir.Node,
    permuted: dict[ir.Value, _Permuted],
    images: dict[ir.Value, ir.Value],
    turned: dict[tuple[ir.Value, _Permuted], ir.Value],
) -> ir.Value:
    """The image of what a node gives permuted."""
    view, source = permuted[node.outputs[0]], node.inputs[0]
    assert source is not None
    if node.op_type == "Transpose":
        return source
    if node.op_type == "Reshape":
        return images[source]
    shape = _sizes(node.outputs[0], view)
    if node.op_type in _REDUCTIONS:
        return _reduced(graph, node, view, images[source], shape)
    if node.op_type in _PRODUCTS:
        return _convolved(graph, node, images[source], shape)
    operands: list[ir.Value | None] = []
    for value in node.inputs:
        if value is None or value in images:
            operands.append(None if value is None else images[value])
            continue
        if (value, view) not in turned:
            turned[value, view] = _turned(graph, node, value, view)
        operands.append(turned[value, view])
    return _same(node, node.op_type, operands, shape, {name: one.value for name, one in node.attributes.items()})


def _same(node: ir.Node, kind: str, inputs: list[ir.Value | None], shape: Any, attributes: dict[str, Any]) -> ir.Value:
    """A node in the place of another one, with what is known of that."""
    out = node.outputs[0]
    value = insert(node, kind, inputs, like=out, name=f"{out.name}.order", shape=shape, **attributes)
    producer = value.producer()
    assert producer is not None
    producer.metadata_props.update(node.metadata_props)
    return value


def _sizes(value: ir.Value, view: _Permuted) -> list[int | str]:
    """The sizes of an image of which a value is the permuted one."""
    sizes = dims(value)
    assert sizes is not None
    return [view.batch, sizes[-1], *view.places] if view.rows else [sizes[axis] for axis in view.back]


def _turned(graph: ir.Graph, node: ir.Node, value: ir.Value, view: _Permuted) -> ir.Value:
    """A constant, or what has one place, in the order of the image."""
    array, name = content(value), f"{value.name}.order"
    if array is None:
        return insert(
            node, "Transpose", [value], like=value, name=name, shape=_sizes(value, view), perm=list(view.back)
        )
    if array.size == 1:
        return value
    whole = array.reshape((1,) * (len(view.order) - array.ndim) + array.shape)
    return stored(graph, np.ascontiguousarray(whole.transpose(view.back)), name)


def _reduced(graph: ir.Graph, node: ir.Node, view: _Permuted, image: ir.Value, shape: Any) -> ir.Value:
    axes = _axes(node, view)
    assert axes is not None
    over = stored(graph, np.array(axes, np.int64), f"{node.outputs[0].name}.axes")
    return _same(node, node.op_type, [image, over], shape, {"keepdims": int(_keeps(node))})


def _convolved(graph: ir.Graph, node: ir.Node, image: ir.Value, shape: Any) -> ir.Value:
    """The product with a matrix at each place; it has the node's name, by which a layer is known."""
    matrix = _matrix(node)
    assert matrix is not None
    window = (1,) * (len(shape) - 2)
    weight = np.ascontiguousarray(matrix.T).reshape(*matrix.T.shape, *window)
    reads = [image, stored(graph, weight, f"{node.name}.weight"), *node.inputs[2:]]
    value = _same(node, "Conv", reads, shape, {"kernel_shape": window})
    convolution = value.producer()
    assert convolution is not None
    convolution.name = node.name
    return value
