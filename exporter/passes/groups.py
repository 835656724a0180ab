"""Normalizes groups of channels without laying them side by side, for a backend that turns its images for that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .graph import content, dims, insert, replace, stored

__all__ = ["KeepChannels"]

_BY_ELEMENT = {"Abs", "Add", "Div", "Exp", "Mul", "Neg", "Reciprocal", "Sigmoid", "Sqrt", "Sub", "Tanh"}


class _Image(NamedTuple):
    """What a value is a view of: [B, C, *places], whose groups are C / G channels."""

    batch: int | str
    groups: int
    channels: int
    places: tuple[int, ...]
    view: tuple[int | str, ...]
    """The view's shape."""
    within: tuple[int, ...]
    """Its dimensions of what is in one group."""

    @property
    def numbers(self) -> tuple[int | str, ...]:
        """The shape of one number of each group."""
        return tuple(1 if axis in self.within else size for axis, size in enumerate(self.view))


class KeepChannels(ir.passes.InPlacePass):
    """Takes group norms, and their gradients, on [B, C, *places] in place of a view of it.

    The view of a group norm is [B, G, n], and that of an instance norm, whose groups are channels, [1, B*C, *places].

    1. What is done number by number is done to the image; a number of each group becomes one of each channel.
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
    """The views that can be images, as can all that they meet."""
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
    if before is None or after is None or len(before) < 3 or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    sizes = [size for size in before[1:] if isinstance(size, int)]
    if len(sizes) != len(before) - 1 or math.prod(sizes[1:]) < 2:
        return None
    batch, channels, places = before[0], sizes[0], tuple(sizes[1:])
    if after == (1, f"{channels}*{batch}", *places):
        return _Image(batch, channels, channels, places, after, (0, *range(2, len(after))))
    groups = after[1] if len(after) == 3 and after[0] == batch else 0
    if not isinstance(groups, int) or not groups or channels % groups:
        return None
    if after[2] != channels // groups * math.prod(places):
        return None
    return _Image(batch, groups, channels, places, after, (2,))


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
    numbers = image.numbers
    return value.const_value is None and dims(value) in (numbers, numbers[1:] if numbers[0] == 1 else numbers)


def _is_single(value: ir.Value) -> bool:
    array = content(value)
    return array is not None and array.size == 1 and array.ndim <= 3


def _can_be_taken(user: ir.Node, images: dict[ir.Value, _Image]) -> bool:
    """Whether what reads a view can read the image in its place."""
    if user.op_type == "ReduceMean":
        source = user.inputs[0]
        assert source is not None
        return _is_mean_of_groups(user, images[source])
    if user.op_type == "Reshape":
        source = user.inputs[0]
        assert source is not None  # only the data of a Reshape is a float
        image = images[source]
        return (dims(user.outputs[0]) or ())[1:] == (image.channels, *image.places)
    return user.op_type in _BY_ELEMENT and user.outputs[0] in images


def _is_mean_of_groups(node: ir.Node, image: _Image) -> bool:
    axes = content(node.inputs[1]) if len(node.inputs) > 1 else None
    keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    return (
        axes is not None
        and sorted(int(axis) % len(image.view) for axis in axes.flat) == list(image.within)
        and keeps == 1
    )


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
    made: dict[ir.Value, ir.Value] = {}  # the image of a view
    numbers: dict[tuple[ir.Value, _Image], ir.Value] = {}  # numbers of groups as those of an image's channels
    old: list[ir.Node] = []
    for node in list(graph):
        out, source = node.outputs[0], node.inputs[0] if node.inputs else None
        if out in views:
            old.append(node)
            made[out] = _image(graph, node, views, made, numbers)
        elif source is not None and source in views:
            image = views[source]
            replace(node, made[source] if node.op_type == "Reshape" else _mean(graph, node, made[source], image))
    for node in reversed(old):
        graph.remove(node, safe=True)


def _image(
    graph: ir.Graph,
    node: ir.Node,
    views: dict[ir.Value, _Image],
    made: dict[ir.Value, ir.Value],
    numbers: dict[tuple[ir.Value, _Image], ir.Value],
) -> ir.Value:
    """The image of what a node makes a view of."""
    out, image = node.outputs[0], views[node.outputs[0]]
    if node.op_type == "Reshape":
        source = node.inputs[0]
        assert source is not None
        return source
    operands: list[ir.Value] = []
    for value in node.inputs:
        assert value is not None
        if value in views:
            operands.append(made[value])
        elif _is_of_groups(value, image):
            if (value, image) not in numbers:
                numbers[value, image] = _of_channels(graph, node, value, image)
            operands.append(numbers[value, image])
        else:
            operands.append(value)
    shape = [image.batch, image.channels, *image.places]
    return insert(node, node.op_type, operands, like=out, name=f"{out.name}.channels", shape=shape)


def _of_channels(graph: ir.Graph, node: ir.Node, value: ir.Value, image: _Image) -> ir.Value:
    """Numbers of groups as [B, C, 1, ..]."""
    name, each = f"{node.outputs[0].name}.numbers", image.channels // image.groups
    if each > 1:
        sizes = stored(graph, np.array([1, image.groups, each], np.int64), f"{name}.each")
        shape = [image.batch, image.groups, each]
        value = insert(node, "Expand", [value, sizes], like=value, name=f"{name}.wide", shape=shape)
    return _reshaped(graph, node, value, f"{name}.channels", [image.batch, image.channels, *(1 for _ in image.places)])


def _mean(graph: ir.Graph, node: ir.Node, source: ir.Value, image: _Image) -> ir.Value:
    """The mean over each group of an image, in the shape that it has of the view."""
    name, numbers = node.outputs[0].name, list(image.numbers)
    shape = [image.batch, image.channels, *(1 for _ in image.places)]
    mean = insert(
        node, "AveragePool", [source], like=source, name=f"{name}.pooled", shape=shape, kernel_shape=image.places
    )
    if image.groups == image.channels:
        return _reshaped(graph, node, mean, f"{name}.of_groups", numbers)
    mean = _reshaped(graph, node, mean, f"{name}.apart", [image.batch, image.groups, image.channels // image.groups])
    last = stored(graph, np.array([2], np.int64), f"{name}.last")
    return insert(node, "ReduceMean", [mean, last], like=mean, name=f"{name}.of_groups", shape=numbers, keepdims=1)


def _reshaped(graph: ir.Graph, node: ir.Node, value: ir.Value, name: str, shape: Sequence[int | str]) -> ir.Value:
    sizes = np.array([size if isinstance(size, int) else -1 for size in shape], np.int64)
    return insert(node, "Reshape", [value, stored(graph, sizes, f"{name}.shape")], like=value, name=name, shape=shape)
