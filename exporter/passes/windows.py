"""Gives INT8 convolutions whose windows a backend gets wrong a window that it gets right."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from .graph import content, sole_user, stored

__all__ = ["WidenInt8Windows"]

_FEW_CHANNELS = 64
_RIGHT = 2
"""Largest common divisor of window and stride that was seen to be right with any number of channels."""


class WidenInt8Windows(ir.passes.InPlacePass):
    """Adds taps of zero to the windows of INT8 convolutions, where OpenVINO would compute something else.

    1. A convolution with weights in INT8 and fewer than 64 input channels (in each group), whose window and stride along the last axis
       have a common divisor above 2, gets the fewest taps of zero at the end of that axis that leave none, and as much padding.
    2. One with a dilation along that axis, padding that is worked out, or weights that another operation reads too, stays.

    OpenVINO 2026.4.1 on CPUs with AMX takes such a divisor out of the axis and makes channels of it, and is then off by all of the
    result's size: 32 channels, a window and a stride of 4, say, as where an image or a signal is cut into patches. Other CPUs are right;
    a file is made for all of them. The taps cost a fifth of the layer's time at most where the window is 4.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Conv":
                modified |= self._widen(model.graph, node)
        return ir.passes.PassResult(model, modified)

    def _widen(self, graph: ir.Graph, node: ir.Node) -> bool:
        weight = node.inputs[1]
        up = None if weight is None else weight.producer()
        if weight is None or up is None or up.op_type != "DequantizeLinear":
            return False
        numbers = content(up.inputs[0])
        if numbers is None or numbers.shape[1] >= _FEW_CHANNELS or sole_user(up.outputs[0]) is not node:
            return False
        if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET":
            return False
        axes, window = numbers.ndim - 2, numbers.shape[-1]
        strides, dilations, pads = (
            list(node.attributes[name].as_ints()) if name in node.attributes else default
            for name, default in (("strides", [1] * axes), ("dilations", [1] * axes), ("pads", [0] * 2 * axes))
        )
        if dilations[-1] != 1:
            return False
        taps = next(more for more in range(strides[-1] + 1) if math.gcd(window + more, strides[-1]) <= _RIGHT)
        if taps == 0:
            return False
        wide = np.concatenate([numbers, np.zeros((*numbers.shape[:-1], taps), numbers.dtype)], axis=-1)
        old = up.inputs[0]
        assert old is not None and old.name is not None
        up.replace_input_with(0, stored(graph, wide, f"{old.name}.wide"))
        if not old.uses():
            del graph.initializers[old.name]
        up.outputs[0].shape = ir.Shape(wide.shape)
        pads[-1] += taps
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(wide.shape[2:]))
        return True
