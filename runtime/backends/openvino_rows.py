"""Has OpenVINO multiply the rows of all samples by what they share at once."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["join_rows"]


def join_rows(model: Any) -> bool:
    """Turns products of [B, .., 1, k] and [1, .., k, n] into ones of [1, .., B, k] and [1, .., k, n].

    So the queries of all candidates meet the keys of one image in one product, where OpenVINO 2026.4 makes B small ones that read the keys
    again. Factors that are turned on the way stay as they are: their products are sums of another order. So do weights. What a product is
    multiplied by, a single number, stays behind it, where OpenVINO makes both at once and rounds once less.

    Args:
        model: of OpenVINO, with the shapes of a batch; changed in place.

    Returns:
        Whether there was one.
    """
    from openvino import opset13

    found = False
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul" or any(product.get_attributes().values()):
            continue
        first, second = (product.input_value(index) for index in (0, 1))
        if first.get_partial_shape().is_dynamic or second.get_partial_shape().is_dynamic:
            continue
        rows, shared = (list(value.get_shape()) for value in (first, second))
        middle = rows[1:-2]
        if len(rows) < 3 or rows[0] == 1 or rows[-2] != 1 or shared[:-2] != [1, *middle]:
            continue
        if second.get_node().get_type_name() in ("Constant", "Transpose"):
            continue
        batch, last = len(middle), [len(rows) - 2, len(rows) - 1]
        joined = opset13.transpose(first, [*range(1, batch + 1), 0, *last])
        joined = opset13.reshape(joined, [1, *middle, rows[0], rows[-1]], False)
        made = opset13.matmul(joined, second, False, False)
        made.set_friendly_name(product.get_friendly_name())
        end = product
        while (scaling := _scaling(end)) is not None:
            end, number = scaling
            made = opset13.multiply(made, number)
            made.set_friendly_name(end.get_friendly_name())
        parted = opset13.reshape(made, [*middle, rows[0], 1, shared[-1]], False)
        parted = opset13.transpose(parted, [batch, *range(batch), *last])
        for place in list(end.output(0).get_target_inputs()):
            place.replace_source_output(parted.output(0))
        found = True
    return found


def _scaling(node: Any) -> tuple[Any, Any] | None:
    """What multiplies a node's output by a single number, where nothing else reads it, and that number."""
    places = list(node.output(0).get_target_inputs())
    if len(places) != 1 or places[0].get_node().get_type_name() != "Multiply":
        return None
    user = places[0].get_node()
    number = user.input_value(1 - places[0].get_index())
    if number.get_node().get_type_name() != "Constant" or math.prod(number.get_shape()) != 1:
        return None
    return (user, number) if user.output(0).get_shape() == node.output(0).get_shape() else None
