"""Reductions of many short rows."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime.backends.openvino_reductions import fold_reductions

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")

KINDS = ("reduce_max", "reduce_min", "reduce_prod", "reduce_sum")


def model_of(kind: str, shape: list[int], axes: list[int], keep: bool) -> openvino.Model:
    x = opset.parameter(shape, np.float32)
    return openvino.Model([getattr(opset, kind)(x, np.array(axes, np.int64), keep)], [x])


def run(model: openvino.Model, array: np.ndarray, threads: int) -> np.ndarray:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    found = openvino.Core().compile_model(model, "CPU", settings).create_infer_request().infer([array])
    return np.array(next(iter(found.values())))


def shapes(model: openvino.Model) -> list[list[int]]:
    """What is reduced, of each reduction."""
    operations = [each for each in model.get_ordered_ops() if each.get_type_name().startswith("Reduce")]
    return [list(each.input_value(0).get_shape()) for each in operations]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "axes", "rows"),
    [
        ([5, 4, 1, 36], [3], [20, 36]),
        ([5, 4, 1, 36], [-1], [20, 36]),
        ([3, 2, 5, 7, 9], [4], [210, 9]),
        ([5, 4, 36, 1], [2, 3], [20, 36]),
        ([5, 4, 1, 36], [3, 2], [20, 36]),
        ([1, 4, 1, 3], [3], [4, 3]),
        ([5, 4, 36, 1], [2], [20, 36]),
        ([5, 4, 36, 7], [2], [20, 36, 7]),
        ([5, 1, 36, 7], [1, 2], [5, 36, 7]),
        ([1, 1, 1, 36], [0, 1, 2, 3], [1, 36]),
    ],
)
def test_rows_are_reduced_at_once(kind: str, shape: list[int], axes: list[int], rows: list[int], keep: bool) -> None:
    x = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
    model = model_of(kind, shape, axes, keep)
    expected = run(model, x, 1)
    fold_reductions(model)
    assert shapes(model) == [rows]
    found = run(model, x, 1)
    np.testing.assert_allclose(found, expected, rtol=2e-6)  # on ARM64 some are sums of another order
    np.testing.assert_array_equal(run(model, x, 2), found)


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [
        ("reduce_sum", [5, 8, 16, 16], [2, 3]),  # an image
        ("reduce_sum", [5, 8, 16, 16], [1]),
        ("reduce_sum", [5, 8, 1, 16], [1, 3]),
        ("reduce_sum", [5, 8, 1, 1], [2, 3]),
        ("reduce_sum", [5, 8, 16], [2]),  # as fast as it is
        ("reduce_sum", [5, 4, 1, 36], []),
        ("reduce_mean", [5, 4, 1, 36], [3]),  # of a layer norm
    ],
)
def test_others_stay(kind: str, shape: list[int], axes: list[int]) -> None:
    model = model_of(kind, shape, axes, True)
    fold_reductions(model)
    assert shapes(model) == [shape]


def test_axes_that_are_not_known_stay() -> None:
    x, axes = opset.parameter([5, 4, 1, 36], np.float32), opset.parameter([1], np.int64)
    model = openvino.Model([opset.reduce_sum(x, axes, True)], [x, axes])
    fold_reductions(model)
    assert shapes(model) == [[5, 4, 1, 36]]


def test_shapes_that_are_not_known_stay() -> None:
    x = opset.parameter([-1, 4, 1, 36], np.float32)
    model = openvino.Model([opset.reduce_sum(x, np.array([3], np.int64), True)], [x])
    fold_reductions(model)
    assert [each.get_type_name() for each in model.get_ordered_ops()].count("Reshape") == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("heads", "numbers"), [(4, 36), (1, 36), (1, 5000)])
def test_a_row_does_not_depend_on_the_others(heads: int, numbers: int, threads: int) -> None:
    """One alone is all that there is to reduce, and would be if its parts were several threads'."""
    x = np.random.default_rng(0).standard_normal((64, heads, 1, numbers)).astype(np.float32)
    found = {}
    for rows in (1, 3, 64):
        model = model_of("reduce_sum", [rows, heads, 1, numbers], [3], True)
        fold_reductions(model)
        found[rows] = run(model, x[:rows], threads)
    for rows in (1, 3):
        np.testing.assert_array_equal(found[64][:rows], found[rows])
