"""Keeps OpenVINO from taking chains of matrix products for one operation."""

from __future__ import annotations

from typing import Any

__all__ = ["part_products"]

_AFTER = frozenset({"Add", "Convert", "Multiply", "Subtract"})
"""What goes into a matrix product behind it where its other input is a constant: a bias, a scale."""


def part_products(model: Any) -> None:
    """Puts an operation that changes nothing, the larger of a number and itself, between matrix products that follow one another.

    OpenVINO 2026.4.1 makes one kernel of such a chain at a small fixed batch, and dies of a segmentation fault in it: with the gradient of
    every perceptron whose activation is SiLU (2025.4.1 did not). It takes no product for a link whose result is read twice. Without
    its fusion altogether (SNIPPETS_MODE) steps of perceptrons took 6 to 19 % longer.

    Args:
        model: of OpenVINO; changed in place.
    """
    from openvino import opset13

    for product in model.get_ordered_ops():
        if not _is_link(product):
            continue
        end = product.output(0)
        while (reader := _only_reader(end)) is not None and _belongs(reader):
            end = reader.output(0)
        if not _leads_to_a_product(end):
            continue
        (place,) = end.get_target_inputs()
        place.replace_source_output(opset13.maximum(end, end).output(0))


def _is_link(operation: Any) -> bool:
    """Whether an operation is a product of matrices; those of more dimensions are no part of such chains."""
    if operation.get_type_name() != "MatMul":
        return False
    rank = operation.get_output_partial_shape(0).rank  # not known of some graphs that were made elsewhere
    return rank.is_dynamic or rank.get_length() <= 2


def _only_reader(value: Any) -> Any:
    places = list(value.get_target_inputs())
    return places[0].get_node() if len(places) == 1 else None


def _belongs(operation: Any) -> bool:
    inputs = [operation.input_value(index).get_node() for index in range(operation.get_input_size())]
    return operation.get_type_name() in _AFTER and sum(each.get_type_name() != "Constant" for each in inputs) == 1


def _leads_to_a_product(value: Any) -> bool:
    """Whether the one thing made of a value, and of that, and so on, is a product of matrices."""
    while (reader := _only_reader(value)) is not None and reader.get_output_size() == 1:
        if _is_link(reader):
            return True
        value = reader.output(0)
    return False
