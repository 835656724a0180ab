"""Products of all samples' rows with what they share."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime.backends.openvino_rows import join_rows

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")


def model_of(rows: list[int], shared: list[int], *, turned: bool = False, flag: bool = False) -> openvino.Model:
    x, k = (opset.parameter(shape, np.float32) for shape in (rows, shared))
    last = len(shared) - 1
    factor = opset.transpose(k, [*range(last - 1), last, last - 1]) if turned else k
    return openvino.Model([opset.matmul(x, factor, False, flag)], [x, k])


def run(model: openvino.Model, *arrays: np.ndarray) -> np.ndarray:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(model, "CPU", settings).create_infer_request().infer(list(arrays))
    return np.array(next(iter(found.values())))


def products(model: openvino.Model) -> list[list[int]]:
    return [
        list(operation.input_value(0).get_shape())
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "MatMul"
    ]


@pytest.mark.parametrize(
    ("rows", "shared", "joined"),
    [
        ([7, 1, 5], [1, 5, 9], [1, 7, 5]),
        ([7, 3, 1, 5], [1, 3, 5, 9], [1, 3, 7, 5]),
        ([7, 2, 3, 1, 5], [1, 2, 3, 5, 9], [1, 2, 3, 7, 5]),
    ],
)
def test_all_rows_meet_what_they_share_at_once(rows: list[int], shared: list[int], joined: list[int]) -> None:
    generator = np.random.default_rng(0)
    x, k = (generator.standard_normal(shape).astype(np.float32) for shape in (rows, shared))
    model = model_of(rows, shared)
    assert join_rows(model)
    assert products(model) == [joined]
    found = run(model, x, k)
    assert found.shape == (*rows[:-1], 9)
    np.testing.assert_allclose(found, x @ k, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("number", "read_twice", "behind"),
    [(np.float32(0.3), False, True), (np.full((1, 1, 1), 0.3, np.float32), False, True), (np.ones(9, np.float32), False, False), (np.float32(0.3), True, False)],
)  # fmt: skip
def test_a_single_number_stays_behind_its_product(number: np.ndarray, read_twice: bool, behind: bool) -> None:
    """There OpenVINO multiplies and scales at once; elsewhere the bits would be others."""
    x, k = (opset.parameter(shape, np.float32) for shape in ([7, 3, 1, 5], [1, 3, 5, 9]))
    product = opset.matmul(x, k, False, False)
    results = [opset.multiply(product, number), *([opset.relu(product)] if read_twice else [])]
    model = openvino.Model(results, [x, k])
    generator = np.random.default_rng(0)
    given = [generator.standard_normal(shape).astype(np.float32) for shape in ([7, 3, 1, 5], [1, 3, 5, 9])]
    expected = run(model, *given)
    assert join_rows(model)
    scaled = next(operation for operation in model.get_ordered_ops() if operation.get_type_name() == "Multiply")
    assert (scaled.input_value(0).get_node().get_type_name() == "MatMul") == behind
    np.testing.assert_allclose(run(model, *given), expected, rtol=1e-5, atol=1e-6)


X = opset.parameter([7, 3, 1, 5], np.float32)


@pytest.mark.parametrize(
    "model",
    [
        model_of([7, 3, 2, 5], [1, 3, 5, 9]),  # several rows of each sample, which are a product
        model_of([7, 3, 1, 5], [7, 3, 5, 9]),  # a condition for each
        model_of([1, 3, 1, 5], [1, 3, 5, 9]),  # one sample
        model_of([7, 3, 1, 5], [1, 1, 5, 9]),  # one matrix for all heads
        model_of([7, 3, 1, 5], [1, 3, 9, 5], turned=True),
        model_of([7, 3, 1, 5], [1, 3, 9, 5], flag=True),
        model_of([7, 5], [5, 9]),
        openvino.Model([opset.matmul(X, np.ones((1, 3, 5, 9), np.float32), False, False)], [X]),  # weights
    ],
)
def test_other_products_stay(model: openvino.Model) -> None:
    before = products(model)
    assert not join_rows(model)
    assert products(model) == before
