"""What a layer multiplies its weights with, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["LayerShape", "patches"]


@dataclass(frozen=True)
class LayerShape:
    """How a layer turns its input into rows.

    Attributes:
        kernel: spatial size of the kernel; empty for a matrix product.
        strides: one for each spatial axis, as are `dilations`.
        dilations: distance of taps.
        pads: zeros before each spatial axis, then after each.
        groups: number of groups.
    """

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1

    @classmethod
    def of(cls, node: ir.Node) -> LayerShape:
        """Reads the attributes of a Conv; any other node is a matrix product."""
        if node.op_type != "Conv":
            return cls()
        weight = node.inputs[1]
        assert weight is not None and weight.const_value is not None
        kernel = weight.const_value.numpy().shape[2:]
        rank = len(kernel)

        def numbers(name: str, default: int, count: int) -> tuple[int, ...]:
            return tuple(node.attributes[name].as_ints()) if name in node.attributes else (default,) * count

        return cls(
            kernel,
            numbers("strides", 1, rank),
            numbers("dilations", 1, rank),
            numbers("pads", 0, 2 * rank),
            node.attributes["group"].as_int() if "group" in node.attributes else 1,
        )


def patches(values: np.ndarray, shape: LayerShape, most: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Samples rows of the matrix that a layer multiplies with its weights.

    Args:
        values: the layer's input, [B, C, *spatial], or [..., K] for a matrix product.
        shape: of the layer.
        most: number of rows; all of them where there are fewer.
        generator: picks the rows, without replacement.

    Returns:
        for each group [rows, C / groups * prod(kernel)] float32, in the order of the flattened kernel.
    """
    if not shape.kernel:
        rows = values.reshape(-1, values.shape[-1])
        return [rows if len(rows) <= most else rows[generator.choice(len(rows), most, replace=False)]]
    rank = len(shape.kernel)
    widths = [(0, 0), (0, 0), *zip(shape.pads[:rank], shape.pads[rank:], strict=True)]
    padded = np.pad(values, widths)
    counts = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(padded.shape[2:], shape.kernel, shape.strides, shape.dilations, strict=True)
    ]
    total = len(values) * int(np.prod(counts))
    chosen = np.arange(total) if total <= most else generator.choice(total, most, replace=False)
    places = np.unravel_index(chosen, (len(values), *counts))
    index: tuple[Any, ...] = (places[0].reshape(-1, *[1] * rank), slice(None))
    index += tuple(_tap_positions(places[1:], shape, rank))
    # [rows, C, *kernel]: the batch and spatial indices are advanced ones, the channels a slice between them
    taken = padded[index]
    taken = np.moveaxis(taken, -1, 1)
    channels = values.shape[1] // shape.groups
    return [
        np.ascontiguousarray(taken[:, g * channels : (g + 1) * channels]).reshape(len(chosen), -1)
        for g in range(shape.groups)
    ]


def _tap_positions(places: Sequence[np.ndarray], shape: LayerShape, rank: int) -> list[np.ndarray]:
    """Positions that the taps read on each spatial axis, [rows, *kernel] by broadcasting."""
    found = []
    for axis in range(rank):
        taps = np.arange(shape.kernel[axis]) * shape.dilations[axis]
        start = places[axis] * shape.strides[axis]
        along = [1] * (rank + 1)
        along[1 + axis] = shape.kernel[axis]
        found.append(start.reshape(-1, *[1] * rank) + taps.reshape(along))
    return found
