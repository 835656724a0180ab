"""From states along trajectories to the numbers of an INT8 score graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from ..observers import OBSERVERS, Histogram
from ..states import States
from .grid import Grid, grid_for_range
from .insert import IntWeights
from .layers import Layer
from .patches import LayerShape, patches
from .taps import Taps
from .weights import Moments, channel_scales, round_nearest, round_to_inputs

__all__ = ["Calibration", "Scheme", "calibrate"]

_LARGEST_INPUT = 4608
"""Weights in one row of a layer above which they are rounded to nearest: 512 channels of 3x3. The moments of a wider
layer take more than 170 MB and their inverse minutes."""
_MOMENT_NUMBERS = 2**26
"""Numbers of moments held at a time (0.5 GB); layers beyond that wait for another pass over the states."""
_FITTED_STATES = 512
"""States that weights are fitted to, spread over all; a convolution finds many rows in each."""
_ROWS_PER_INPUT = 4
"""Rows of a layer's input that its moments are taken from, for each number in a row: enough for moments of full rank."""
_LEAST_ROWS = 4096
"""Rows in any case, where there are as many: weights fitted to 24 rows of 6 numbers were 7 % worse than nearest on others."""


@dataclass(frozen=True)
class Scheme:
    """How a target wants its grids.

    Attributes:
        asymmetric: grids of the forward half are uint8 with a zero point. Gradients are around zero in any case.
        observer: how ranges are chosen: a name in `OBSERVERS`.
        fit_weights: weights are rounded to the layer's inputs; False rounds each to nearest.
        evens: the halves of the graph in which channels are evened out (see `equalize.py`).
        fuses_sums: its engines add inside an INT8 convolution what is on the convolution's grid, as TensorRT's do.
            OpenVINO's (2026.4.1) and onnxruntime's add in float32 in any case.
        largest_weight: weights are whole numbers up to this one: 127, or fewer where products of bytes overflow.
        wrong: names of layers that its engines get wrong in INT8, and that stay in float32.
    """

    asymmetric: bool = True
    observer: str = "mse"
    fit_weights: bool = True
    evens: tuple[str, ...] = ("forward", "gradient")
    fuses_sums: bool = False
    largest_weight: int = 127
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """What `insert_int8` needs.

    Attributes:
        layers: all layers of the graph.
        grids: by name of the value that a layer reads.
        weights: by name of the layer.
        ranges: (smallest, largest) number that each of those values took.
    """

    layers: tuple[Layer, ...]
    grids: dict[str, Grid]
    weights: dict[str, IntWeights]
    ranges: dict[str, tuple[float, float]]


def calibrate(
    model: ir.Model,
    layers: Sequence[Layer],
    states: States,
    scheme: Scheme,
    *,
    batch: int = 8,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Calibration:
    """Chooses grids and rounds weights for layers of a score graph.

    Args:
        model: the lowered float32 graph.
        layers: those that may run in INT8.
        states: where the graph is asked along trajectories, with the gradient scales of the chains.
        scheme: how the target wants it.
        batch: states in one call.
        threads: threads of one call.
        seed: picks the rows of a layer's input that weights are fitted to.
        progress: called with (what is being done, done, in all).
    """
    proto = ir.to_proto(model)
    nodes = {node.name: node for node in model.graph}
    by_value = {layer.activation: layer for layer in layers}
    histograms = {name: Histogram() for name in by_value}
    taps = Taps(proto, list(histograms), threads)
    for values in _values(taps, states, batch, "measuring ranges", progress):
        for name, histogram in histograms.items():
            histogram.update(values[name])
    grids = {}
    for name, layer in by_value.items():
        low, high = OBSERVERS[scheme.observer](histograms[name], _symmetric(layer, scheme))[0]
        grids[name] = grid_for_range(low, high, symmetric=_symmetric(layer, scheme))
    ranges = {name: (float(histogram.low[0]), float(histogram.high[0])) for name, histogram in histograms.items()}

    weights: dict[str, IntWeights] = {}
    for chunk in _chunks(layers, nodes):
        moments: dict[str, list[Moments]] = {}
        if scheme.fit_weights and _row_size(nodes[chunk[0].name]) <= _LARGEST_INPUT:
            moments = _gather(proto, chunk, nodes, grids, states, batch, threads, seed, progress)
        for layer in chunk:
            weights[layer.name] = _round(nodes[layer.name], layer, moments.get(layer.name), scheme.largest_weight)
    return Calibration(tuple(layers), grids, weights, ranges)


def _symmetric(layer: Layer, scheme: Scheme) -> bool:
    return layer.half == "gradient" or not scheme.asymmetric


def _values(
    taps: Taps, states: States, batch: int, what: str, progress: Callable[[str, int, int], None] | None
) -> Iterator[Mapping[str, np.ndarray]]:
    done = 0
    for inputs in states.batches(batch):
        yield taps.run(inputs)
        done += len(inputs["x"])
        if progress is not None:
            progress(what, done, len(states))


def _row_size(node: ir.Node) -> int:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    shape = weight.const_value.numpy().shape
    if node.op_type == "Conv":
        return int(np.prod(shape[1:]))
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    return shape[1] if transposed else shape[0]


def _chunks(layers: Sequence[Layer], nodes: Mapping[str | None, ir.Node]) -> Iterator[list[Layer]]:
    """Layers in groups whose moments fit into memory; those too wide for moments come alone."""
    chunk: list[Layer] = []
    held = 0
    for layer in layers:
        size = _row_size(nodes[layer.name])
        numbers = 2 * size * size * LayerShape.of(nodes[layer.name]).groups
        if chunk and (held + numbers > _MOMENT_NUMBERS or size > _LARGEST_INPUT):
            yield chunk
            chunk, held = [], 0
        chunk.append(layer)
        held += numbers
        if size > _LARGEST_INPUT:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _gather(
    proto: onnx.ModelProto,
    layers: Sequence[Layer],
    nodes: Mapping[str | None, ir.Node],
    grids: Mapping[str, Grid],
    states: States,
    batch: int,
    threads: int | None,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, list[Moments]]:
    shapes = {layer.name: LayerShape.of(nodes[layer.name]) for layer in layers}
    states = states.part(np.unique(np.linspace(0, len(states) - 1, _FITTED_STATES).round().astype(int)))
    moments = {
        layer.name: [Moments.of_size(_row_size(nodes[layer.name])) for _ in range(shapes[layer.name].groups)]
        for layer in layers
    }
    batches = -(-len(states) // batch)
    most = {
        layer.name: -(-max(_LEAST_ROWS, _ROWS_PER_INPUT * _row_size(nodes[layer.name])) // batches) for layer in layers
    }
    taps = Taps(proto, [layer.activation for layer in layers], threads)
    for index, values in enumerate(_values(taps, states, batch, "fitting weights", progress)):
        for layer in layers:
            held = values[layer.activation]
            rounded = grids[layer.activation].round(held)
            rows = (
                patches(array, shapes[layer.name], most[layer.name], np.random.default_rng((seed, index)))
                for array in (held, rounded)
            )
            for group, x, y in zip(moments[layer.name], *rows, strict=True):
                group.add(x, y)
    for groups in moments.values():
        for group in groups:
            group.settle()
    return moments


def _round(node: ir.Node, layer: Layer, moments: list[Moments] | None, limit: int) -> IntWeights:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    held = weight.const_value.numpy()
    rows = np.moveaxis(held, layer.channel_axis, 0).reshape(held.shape[layer.channel_axis], -1)
    scales = channel_scales(rows, limit)
    if moments is None:
        numbers = round_nearest(rows, scales, limit)
    else:
        each = len(rows) // len(moments)
        numbers = np.concatenate(
            [
                round_to_inputs(rows[g * each : (g + 1) * each], scales[g * each : (g + 1) * each], group, limit)
                for g, group in enumerate(moments)
            ]
        )
    if layer.channel_axis == 0:
        numbers = numbers.reshape(held.shape)
    else:
        numbers = np.ascontiguousarray(numbers.T)
    return IntWeights(numbers, scales)
