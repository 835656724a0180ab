"""Has OpenVINO reduce many short rows in parallel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["fold_reductions"]

_KINDS = {"ReduceMax": "reduce_max", "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod", "ReduceSum": "reduce_sum"}
"""Not ReduceMean, of which OpenVINO makes one operation with what is around it in a layer norm."""


def fold_reductions(model: Any) -> None:
    """Turns reductions of one dimension of four or more into ones of [rows, n] or [rows, n, m].

    OpenVINO 2026.4 hands a dimension at a time to its threads and waits for them, where there are more than three: the gradient of an
    attention's softmax over 36 places, [512, 4, 1, 36], took 385 us with two threads, 41 us with one, and 13 us as [2048, 36] with two.
    A dimension of one number counts as none. Channels, and several dimensions at once, stay: those of an image are laid out in another way.

    Args:
        model: of OpenVINO, with the shapes of a batch; changed in place.
    """
    from openvino import opset13

    for reduction in model.get_ordered_ops():
        if reduction.get_type_name() not in _KINDS:
            continue
        source, axes = reduction.input_value(0), reduction.input_value(1).get_node()
        if source.get_partial_shape().is_dynamic or axes.get_type_name() != "Constant":
            continue
        shape = list(source.get_shape())
        if len(shape) < 4:
            continue
        large = [axis for given in axes.get_data().flat if shape[axis := int(given) % len(shape)] > 1]
        if len(large) != 1 or large[0] < 2:
            continue
        behind = math.prod(shape[large[0] + 1 :])
        folded = opset13.reshape(source, [-1, shape[large[0]], *([behind] if behind > 1 else [])], False)
        made = getattr(opset13, _KINDS[reduction.get_type_name()])(folded, [1], True)
        made.set_friendly_name(reduction.get_friendly_name())
        parted = opset13.reshape(made, np.array(reduction.output(0).get_shape(), np.int64), False)
        for place in list(reduction.output(0).get_target_inputs()):
            place.replace_source_output(parted.output(0))
