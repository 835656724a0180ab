"""Normalizes groups of channels without laying them side by side, for a backend that turns its images for that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .graph import content, dims, insert, replace, stored

__all__ = ["KeepChannels"]

_BY_ELEMENT = {"Abs", "Add", "Div", "Exp", "Mul", "Neg", "Reciprocal", "Sigmoid", "Sqrt", "Sub", "Tanh"}


class _Image(NamedTuple):
    """What a value [B, G, n] is a view of: [B, C, *places], whose groups are C / G channels."""

    groups: int
    channels: int
    places: tuple[int, ...]


class KeepChannels(ir.passes.InPlacePass):
    """Takes group norms, and their gradients, on [B, C, *places] in place of the view [B, G, n] of it.

    1. What is done number by number is done to the image; a number of each group, [B, G, 1], becomes one of each channel.
    2. A mean over a group is the mean of its channels' means, each of an average pool over all places.
    3. What is done to a view in another way leaves that view, and all that meets it, as they are.

    OpenVINO's convolutions have the channels last, and a view of groups has them before the places, so that each norm turned its image
    there and back: of a residual network with six group norms, 64 channels and 32x32 places, batch 8, a third of a gradient's time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        views = _views(model.graph)
        if views:
            _to_images(model.graph, views)
        return ir.passes.PassResult(model, bool(views))


def _views(graph: ir.Graph) -> dict[ir.Value, _Image]:
    """The values [B, G, n] that can be images, as can all that they meet."""
    images: dict[ir.Value, _Image] = {}
    met: dict[ir.Value, list[ir.Value]] = {}  # both ways
    for node in graph:
        out = node.outputs[0]
        if node.op_type == "Reshape" and (image := _viewed(node)) is not None:
            images[out], met[out] = image, []
        elif node.op_type in _BY_ELEMENT:
            views = [value for value in node.inputs if value is not None and value in images]
            if views and _stays_a_view(node, images[views[0]], images):
                images[out], met[out] = images[views[0]], views
                for view in views:
                    met[view].append(out)
    lost = [
        value
        for value in images
        if value.is_graph_output() or not all(_can_be_taken(use.node, images) for use in value.uses())
    ]
    means = [value for value in images if any(use.node.op_type == "ReduceMean" for use in value.uses())]
    return {value: images[value] for value in _reached(means, met) - _reached(lost, met)}


def _viewed(node: ir.Node) -> _Image | None:
    """The image that a Reshape makes a view of groups of."""
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None or len(after) != 3 or len(before) < 3 or before[0] != after[0]:
        return None
    sizes = [size for size in (*before[1:], *after[1:]) if isinstance(size, int)]
    if len(sizes) != len(before) + 1 or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    channels, *places = sizes[:-2]
    groups, numbers = sizes[-2:]
    if not groups or channels % groups or math.prod(sizes[:-2]) != groups * numbers or math.prod(places) < 2:
        return None
    return _Image(groups, channels, tuple(places))


def _stays_a_view(node: ir.Node, image: _Image, images: dict[ir.Value, _Image]) -> bool:
    """Whether an operation by element meets views of equal images, numbers of each group and single numbers alone."""
    for value in node.inputs:
        if value is None:
            return False
        if value in images:
            if images[value] != image:
                return False
        elif not _is_of_groups(value, image) and not _is_single(value):
            return False
    return dims(node.outputs[0]) == dims(next(value for value in node.inputs if value in images))


def _is_of_groups(value: ir.Value, image: _Image) -> bool:
    return value.const_value is None and (dims(value) or ())[1:] == (image.groups, 1)


def _is_single(value: ir.Value) -> bool:
    array = content(value)
    return array is not None and array.size == 1 and array.ndim <= 3


def _can_be_taken(user: ir.Node, images: dict[ir.Value, _Image]) -> bool:
    """Whether what reads a view can read the image in its place."""
    if user.op_type == "ReduceMean":
        return _is_mean_of_groups(user)
    if user.op_type == "Reshape":
        source = user.inputs[0]
        assert source is not None  # only the data of a Reshape is a float
        image = images[source]
        return (dims(user.outputs[0]) or ())[1:] == (image.channels, *image.places)
    return user.op_type in _BY_ELEMENT and user.outputs[0] in images


def _is_mean_of_groups(node: ir.Node) -> bool:
    axes = content(node.inputs[1]) if len(node.inputs) > 1 else None
    keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    return axes is not None and [int(axis) % 3 for axis in axes.flat] == [2] and keeps == 1


def _reached(first: Iterable[ir.Value], met: dict[ir.Value, list[ir.Value]]) -> set[ir.Value]:
    """These views and all that they meet, one after another."""
    found, waiting = set(first), list(first)
    while waiting:
        for value in met[waiting.pop()]:
            if value not in found:
                found.add(value)
                waiting.append(value)
    return found


def _to_images(graph: ir.Graph, views: dict[ir.Value, _Image]) -> None:
    made: dict[ir.Value, ir.Value] = {}  # the image of a view, and the numbers of channels of those of groups
    old: list[ir.Node] = []
    for node in list(graph):
        out, source = node.outputs[0], node.inputs[0] if node.inputs else None
        if out in views:
            old.append(node)
            made[out] = _image(graph, node, views, made)
        elif source is not None and source in views:
            image = views[source]
            replace(node, made[source] if node.op_type == "Reshape" else _mean(graph, node, made[source], image))
    for node in reversed(old):
        graph.remove(node, safe=True)


def _image(graph: ir.Graph, node: ir.Node, views: dict[ir.Value, _Image], made: dict[ir.Value, ir.Value]) -> ir.Value:
    """The image of what a node makes a view of."""
    out, image = node.outputs[0], views[node.outputs[0]]
    if node.op_type == "Reshape":
        source = node.inputs[0]
        assert source is not None
        return source
    operands: list[ir.Value] = []
    for value in node.inputs:
        assert value is not None
        if value not in views and _is_of_groups(value, image) and value not in made:
            made[value] = _of_channels(graph, node, value, image)
        operands.append(made.get(value, value))
    shape = [(dims(out) or ("",))[0], image.channels, *image.places]
    return insert(node, node.op_type, operands, like=out, name=f"{out.name}.channels", shape=shape)


def _of_channels(graph: ir.Graph, node: ir.Node, value: ir.Value, image: _Image) -> ir.Value:
    """Numbers [B, G, 1] as [B, C, 1, ..]."""
    batch, each = (dims(value) or ("",))[0], image.channels // image.groups
    shape = stored(graph, np.array([1, image.groups, each], np.int64), f"{value.name}.each")
    wide = insert(
        node, "Expand", [value, shape], like=value, name=f"{value.name}.wide", shape=[batch, image.groups, each]
    )
    sizes = [image.channels, *(1 for _ in image.places)]
    target = stored(graph, np.array([-1, *sizes], np.int64), f"{value.name}.target")
    return insert(node, "Reshape", [wide, target], like=value, name=f"{value.name}.channels", shape=[batch, *sizes])


def _mean(graph: ir.Graph, node: ir.Node, source: ir.Value, image: _Image) -> ir.Value:
    """The mean over each group, [B, G, 1], of an image."""
    out, batch, each = node.outputs[0], (dims(node.outputs[0]) or ("",))[0], image.channels // image.groups
    name, pooled = out.name, [batch, image.channels, *(1 for _ in image.places)]
    mean = insert(
        node, "AveragePool", [source], like=out, name=f"{name}.pooled", shape=pooled, kernel_shape=image.places
    )
    target = stored(graph, np.array([-1, image.groups, each], np.int64), f"{name}.groups")
    mean = insert(node, "Reshape", [mean, target], like=out, name=f"{name}.apart", shape=[batch, image.groups, each])
    last = stored(graph, np.array([2], np.int64), f"{name}.last")
    return insert(node, "ReduceMean", [mean, last], like=out, name=f"{name}.of_groups", keepdims=1)
