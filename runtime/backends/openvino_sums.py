"""Keeps OpenVINO from rounding once where a graph rounds twice."""

from __future__ import annotations

from typing import Any

__all__ = ["part_sums"]


def part_sums(model: Any) -> None:
    """Puts an operation that changes nothing, the larger of a number and itself, between a product and the sum that alone reads it.

    Where OpenVINO makes one kernel of both, it takes the two in one instruction and rounds at its end. It does so or not by what stands
    around them, and the step that an engine takes with fifteen others would end elsewhere in the last place than one that is taken alone.

    Args:
        model: of OpenVINO; changed in place.
    """
    from openvino import opset13

    for operation in model.get_ordered_ops():
        factors = [operation.input_value(index).get_node() for index in range(operation.get_input_size())]
        if operation.get_type_name() != "Multiply" or any(factor.get_type_name() == "Constant" for factor in factors):
            continue  # a constant is a scale of what it quantizes, or of a layer, and fused into these
        product = operation.output(0)
        places = list(product.get_target_inputs())
        if len(places) == 1 and places[0].get_node().get_type_name() in ("Add", "Subtract"):
            places[0].replace_source_output(opset13.maximum(product, product).output(0))
