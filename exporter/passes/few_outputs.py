"""Computes a convolution with few output channels in parts that fill a vector, for a backend whose convolutions do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...runtime.backends.openvino import PART
from ..precision import keep_in_float32
from .graph import content, dims, insert, replace, stored

__all__ = ["SplitFewOutputs"]

_LANES = 8
"""Output channels that are computed together, whether they are there or not: of AVX2. AVX-512 has 16, and gains more."""
_PER_CHANNEL = 4
"""How much longer a product takes in a convolution of each channel by itself."""
_GAIN = 1.25
"""Times as fast as one convolution that the parts have to be by that count."""


class SplitFewOutputs(ir.passes.InPlacePass):
    """Makes three convolutions of one in two dimensions that has fewer outputs than a vector has lanes.

    The gradient of an image ends in such a one, from many channels to those of a pixel, and it stays in float32 where the others go
    into INT8: of a network of 42 layers with 128 channels it took 8 % of the time, for the most part for products with lanes that are
    not there (`benchmarks/few_outputs.py`).

    1. A convolution with a window of one place computes each tap's share of each output: as many outputs more as there are taps.
    2. A convolution of each channel by itself, which is one tap of 1 and zeros, puts each share where the tap has it.
    3. A convolution with a window of one place adds the shares of each output, and the bias.

    All three are as exact as the one, and stay in float32 where the rest is lowered: each would be rounded. The last has its name. It stays as
    it is where its weights are computed or quantized, in groups, with strides, dilations or automatic padding, or where it would gain little.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph if _gains(node)]
        for node in found:
            keep_in_float32(model, self._split(model.graph, node))
        return ir.passes.PassResult(model, bool(found))

    def _split(self, graph: ir.Graph, node: ir.Node) -> list[str]:
        """Puts the parts in a convolution's place; returns their names."""
        x, weight, *bias = node.inputs
        array, before, after = content(weight), dims(x), dims(node.outputs[0])
        assert x is not None and weight is not None and array is not None and before is not None and after is not None
        outputs, inputs, *window = array.shape
        taps = math.prod(window)
        each = taps * outputs  # shares: all outputs' of the first tap, then of the second
        by_tap = np.ascontiguousarray(array.transpose(2, 3, 0, 1)).reshape(each, inputs, 1, 1)
        one_tap = np.repeat(np.eye(taps, dtype=array.dtype), outputs, axis=0).reshape(each, 1, *window)
        all_taps = np.tile(np.eye(outputs, dtype=array.dtype), (1, taps)).reshape(outputs, each, 1, 1)
        pads = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0] * 4

        def part(kind: str, x: ir.Value, weights: np.ndarray, shape: Sequence[int | str], **more: Any) -> ir.Value:
            reads = [x, stored(graph, weights, f"{weight.name}.{kind}"), *(bias if kind == "sums" else ())]
            name = f"{node.name}{PART}{kind}"
            return insert(node, "Conv", reads, like=node.outputs[0], name=name, shape=shape, **more)

        shares = part("shares", x, by_tap, [before[0], each, *before[2:]])
        placed = part("places", shares, one_tap, [after[0], each, *after[2:]], group=each, pads=pads)
        summed = part("sums", placed, all_taps, after)
        last = summed.producer()
        assert last is not None
        parts = [value.producer() for value in (shares, placed, summed)]
        replace(node, summed)
        last.name = node.name
        if not weight.uses() and weight.name is not None:
            graph.initializers.pop(weight.name, None)
        return [made.name or "" for made in parts if made is not None]


def _gains(node: ir.Node) -> bool:
    """Whether a node is a convolution that is faster in parts."""
    if node.op_type != "Conv" or node.outputs[0].dtype != ir.DataType.FLOAT or dims(node.outputs[0]) is None:
        return False
    array = content(node.inputs[1])
    if array is None or array.ndim != 4 or dims(node.inputs[0]) is None:
        return False
    attributes = node.attributes
    if "auto_pad" in attributes and attributes["auto_pad"].as_string() != "NOTSET":
        return False
    if attributes.get_int("group", 1) != 1 or any(
        any(size != 1 for size in attributes[name].as_ints()) for name in ("strides", "dilations") if name in attributes
    ):
        return False
    outputs, inputs, *window = array.shape
    taps = math.prod(window)
    whole = _filled(outputs) * taps * inputs
    parts = _filled(outputs * taps) * inputs + _PER_CHANNEL * outputs * taps * taps + _LANES * outputs * taps
    return taps > 1 and whole >= _GAIN * parts


def _filled(outputs: int) -> int:
    return math.ceil(outputs / _LANES) * _LANES
