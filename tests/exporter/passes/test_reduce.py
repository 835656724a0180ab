"""Reductions whose results meet constants, through OpenVINO at several batch sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ebm_export.exporter.passes.reduce import KeepReducedDims
from ebm_export.runtime.backends.openvino import OpenVinoEngine

from .graphs import check_pass, graph, kinds, run

RNG = np.random.default_rng(0)
REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2")
OPERATIONS = {
    "Add": "y = Add(r, c)",
    "Sub": "y = Sub(r, c)",
    "Sub from": "y = Sub(c, r)",
    "Mul": "y = Mul(r, c)",
    "Div": "y = Div(r, c)",
    "Where": "m = Greater(c, one)  y = Where(m, r, c)",
    "after others": "q = Sqrt(r)  t = Mul(q, half)  y = Add(t, c)",
    "before others": "t = Mul(r, c)  q = Relu(t)  y = Sub(q, half)",
}


def model_of(
    reduction: str, operation: str, shape: tuple[int, ...], axes: tuple[int, ...], keep: bool
) -> tuple[ir.Model, np.ndarray]:
    """Reduce, then an operation with a constant of the reduced shape; and x at a batch of eight."""
    out = tuple(1 if axis in axes else size for axis, size in enumerate((0, *shape)) if keep or axis not in axes)[1:]
    model = graph(
        f"g (float[B, {', '.join(map(str, shape))}] x) => (float[B, {', '.join(map(str, out))}] y) "
        f"{{ a = Abs(x)  r = {reduction}<keepdims = {int(keep)}>(a, axes)  {OPERATIONS[operation]} }}",
        {
            "axes": np.array(axes, np.int64),
            "c": RNG.uniform(0.5, 1.5, out).astype(np.float32),
            "one": np.ones((), np.float32),
            "half": np.full((), 0.5, np.float32),
        },
    )
    return model, RNG.uniform(0.3, 1.5, (8, *shape)).astype(np.float32)


def check_on_openvino(model: ir.Model, x: np.ndarray, folder: Path) -> None:
    expected = {size: run(model, {"x": x[:size]})[0] for size in (1, 2, 3, 8)}
    KeepReducedDims()(model)
    onnx.save(ir.to_proto(model), folder / "m.onnx")
    with OpenVinoEngine(folder / "m.onnx", precision="fp32", threads=1) as engine:
        for size, answer in expected.items():
            np.testing.assert_allclose(engine.run({"x": x[:size]})["y"], answer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_constants_stay_with_their_rows(reduction: str, operation: str, tmp_path: Path) -> None:
    for keep in (False, True):
        check_on_openvino(*model_of(reduction, operation, (6, 5), (2,), keep), tmp_path)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((6, 5), (1,)),
        ((4, 6, 5), (3,)),
        ((4, 6, 5), (2,)),
        ((4, 6, 5), (1, 3)),
        ((4, 6, 5), (2, 3)),
        ((2, 3, 4, 5), (4,)),
    ],
)
@pytest.mark.parametrize("operation", ["Add", "Mul"])
def test_other_shapes(
    shape: tuple[int, ...], axes: tuple[int, ...], keep: bool, operation: str, tmp_path: Path
) -> None:
    check_on_openvino(*model_of("ReduceSum", operation, shape, axes, keep), tmp_path)


@pytest.mark.parametrize("keep", [False, True])
def test_changes_nothing_but_the_form(keep: bool) -> None:
    model, x = model_of("ReduceMean", "Add", (6, 5), (2,), keep)
    assert check_pass(KeepReducedDims(), model, {"x": x})
    assert kinds(model) == ["Abs", *(["Unsqueeze"] if keep else []), "ReduceMean", "Reshape", "Add"]
    assert not check_pass(KeepReducedDims(), model, {"x": x})


def test_what_meets_no_constant_stays() -> None:
    model = graph(
        "g (float[B, 6, 5] x) => (float[B, 6, 5] y) "
        "{ m = ReduceMean(x, axes)  d = Sub(x, m)  s = Mul(d, d)  v = ReduceMean(s, axes)  e = Add(v, eps) "
        "q = Sqrt(e)  y = Div(d, q) }",
        {"axes": np.array([2], np.int64), "eps": np.full((), 1e-5, np.float32)},
    )
    assert not check_pass(KeepReducedDims(), model, {"x": RNG.standard_normal((3, 6, 5)).astype(np.float32)})
