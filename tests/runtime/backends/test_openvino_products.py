"""Chains of matrix products, which OpenVINO must not take for one operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime.backends.openvino_products import part_products

openvino = pytest.importorskip("openvino")
op = pytest.importorskip("openvino.opset13")


def weights(rows: int, columns: int) -> Any:
    return op.constant(np.ones((rows, columns), np.float32))


def chain(*, rank: int = 2, twice: bool = False) -> Any:
    """A product, its bias, an activation, and another product; the value between them is read twice where asked for."""
    x = op.parameter([*[1] * (rank - 2), -1, 3], np.float32, name="x")
    h = op.add(op.matmul(x, weights(3, 4), False, False), op.constant(np.ones(4, np.float32)))
    y = op.multiply(h, op.sigmoid(h)) if twice else op.tanh(h)
    return openvino.Model([op.result(op.matmul(y, weights(4, 2), False, False))], [x])


def kinds(model: Any) -> list[str]:
    return [each.get_type_name() for each in model.get_ordered_ops() if each.get_type_name() != "Constant"]


def test_something_that_changes_nothing_stands_behind_the_bias() -> None:
    model = chain()
    part_products(model)
    assert kinds(model) == ["Parameter", "MatMul", "Add", "Maximum", "Tanh", "MatMul", "Result"]
    model.validate_nodes_and_infer_types()
    run = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = np.array([[0.1, -0.2, 0.3]], np.float32)
    np.testing.assert_allclose(run(x)[0], np.full((1, 2), 4 * np.tanh(x.sum() + 1)), rtol=1e-6)


@pytest.mark.parametrize("options", [{"twice": True}, {"rank": 3}])
def test_what_is_no_such_chain_stays(options: dict[str, Any]) -> None:
    model = chain(**options)
    before = kinds(model)
    part_products(model)
    assert kinds(model) == before


def test_a_product_of_which_nobody_knows_how_many_dimensions_it_has() -> None:
    """As in some graphs that were made elsewhere."""
    x = op.parameter(openvino.PartialShape.dynamic(), np.float32, name="x")
    y = op.tanh(op.matmul(x, weights(3, 4), False, False))
    model = openvino.Model([op.result(op.matmul(y, weights(4, 2), False, False))], [x])
    part_products(model)
    assert "Maximum" in kinds(model)
