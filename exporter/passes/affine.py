"""Folds constant scales and shifts into the convolution beside them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import content, dims, replace, sole_user, stored

__all__ = ["FoldAffineIntoConv"]


class FoldAffineIntoConv(ir.passes.InPlacePass):
    """Folds per-channel constants into Conv, as a batch norm with stored statistics leaves them.

    1. `Conv(x) * c` scales the kernel's output channels and the bias.
    2. `Conv(x) + c` adds to the bias.
    3. `Conv(x * c)` scales the kernel's input channels: the gradient of rule 1, whatever the zero padding.
    4. c is a scalar or has one number for each channel; the Conv's kernel is constant, and in rules 1 and 2 nothing
       else reads the Conv, in rule 3 nothing else reads the product. Anything else stays, such as a c that gives the
       result another shape: one channel times c [1, C, 1, 1], or a c of more dimensions than x.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Conv":
                modified |= self._into(model.graph, node)
        return ir.passes.PassResult(model, modified)

    def _into(self, graph: ir.Graph, conv: ir.Node) -> bool:
        weight = content(conv.inputs[1])
        if weight is None:
            return False
        return self._before(graph, conv, weight) or self._after(graph, conv, weight)

    def _after(self, graph: ir.Graph, conv: ir.Node, weight: np.ndarray) -> bool:
        user = sole_user(conv.outputs[0])
        if user is None or user.op_type not in ("Mul", "Add") or not _same_shape(conv.outputs[0], user.outputs[0]):
            return False
        other = user.inputs[1] if user.inputs[0] is conv.outputs[0] else user.inputs[0]
        channels = _per_channel(content(other), weight.shape[0], weight.ndim)
        if channels is None:
            return False
        has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
        bias = content(conv.inputs[2]) if has_bias else np.zeros(weight.shape[0], weight.dtype)
        if bias is None:
            return False
        name = conv.inputs[1].name if conv.inputs[1] is not None else "weight"
        if user.op_type == "Mul":
            scaled = weight.astype(np.float64) * channels.reshape(-1, *[1] * (weight.ndim - 1))
            conv.replace_input_with(1, stored(graph, scaled.astype(weight.dtype), f"{name}.scaled"))
            bias_value = bias.astype(np.float64) * channels
        else:
            bias_value = bias.astype(np.float64) + channels
        if user.op_type == "Add" or has_bias:
            own = conv.inputs[2].name if has_bias and conv.inputs[2] is not None else f"{name}.bias"
            _set_bias(conv, stored(graph, bias_value.astype(weight.dtype), f"{own}.folded"))
        # From here on the Conv computes what its reader did, so it answers to that name.
        conv.metadata_props.update(user.metadata_props)
        name = user.outputs[0].name
        replace(user, conv.outputs[0])
        conv.outputs[0].name = name
        return True

    def _before(self, graph: ir.Graph, conv: ir.Node, weight: np.ndarray) -> bool:
        source = conv.inputs[0]
        product = None if source is None else source.producer()
        if product is None or product.op_type != "Mul" or source is None or sole_user(source) is not conv:
            return False
        groups = conv.attributes["group"].as_int() if "group" in conv.attributes else 1
        for index in (0, 1):
            channels = _per_channel(content(product.inputs[index]), weight.shape[1] * groups, weight.ndim)
            if channels is None or not _same_shape(product.inputs[1 - index], product.outputs[0]):
                continue
            # Output channel o of group j reads the input channels of group j.
            per_group = channels.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
            grouped = weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
            scaled = (grouped * per_group).reshape(weight.shape).astype(weight.dtype)
            name = conv.inputs[1].name if conv.inputs[1] is not None else "weight"
            conv.replace_input_with(1, stored(graph, scaled, f"{name}.scaled"))
            conv.replace_input_with(0, product.inputs[1 - index])
            graph.remove(product, safe=True)
            return True
        return False


def _same_shape(value: ir.Value | None, result: ir.Value) -> bool:
    """Whether both shapes are known and equal, so that what made the result of the value has not broadcast it."""
    return dims(value) is not None and dims(value) == dims(result)


def _per_channel(constant: np.ndarray | None, channels: int, rank: int) -> np.ndarray | None:
    """The constant as one float64 for each channel of a tensor of this rank, or None where it is anything else."""
    if constant is None or constant.dtype.kind != "f":
        return None
    if constant.size == 1:
        return np.full(channels, constant.reshape(()), np.float64)
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if constant.ndim > rank or shape[0] != 1 or shape[1] != channels or any(n != 1 for n in shape[2:]):
        return None
    return constant.reshape(-1).astype(np.float64)


def _set_bias(conv: ir.Node, bias: ir.Value) -> None:
    if len(conv.inputs) < 3:
        conv.resize_inputs(3)
    conv.replace_input_with(2, bias)
