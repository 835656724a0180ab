from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.passes import LogSigmoid
from ebm_export.exporter.precision import typed
from ebm_export.exporter.targets import target
from ebm_export.runtime.backends import open_engine

from ..referee import score_graph
from .graphs import check_pass, graph, kinds

X = np.array([[-3.0], [0.5], [4.0]], np.float32)
ONE = {"one": np.ones((), np.float32), "flat": np.array([-1], np.int64), "wide": np.array([-1, 1], np.int64)}


def test_the_logarithm_is_a_softplus() -> None:
    model = graph(
        "g (float[B, 1] x) => (float[B] y) <float[B] r> { s = Sigmoid(x)  r = Reshape(s, flat)  y = Log(r) }", ONE
    )
    assert check_pass(LogSigmoid(), model, {"x": X})
    assert "Softplus" in kinds(model) and "Log" not in kinds(model)
    assert not check_pass(LogSigmoid(), model, {"x": X})


def test_the_gradient_has_no_quotient() -> None:
    model = graph(
        "g (float[B, 1] x, float[B] w) => (float[B, 1] y) <float[B] r, float[B, 1] q> { s = Sigmoid(x)  "
        "r = Reshape(s, flat)  d = Div(w, r)  q = Reshape(d, wide)  t = Sub(one, s)  u = Mul(s, t)  y = Mul(u, q) }",
        ONE,
    )
    assert check_pass(LogSigmoid(), model, {"x": X, "w": X[:, 0]})
    product = model.graph[-1]
    assert {value.producer().op_type for value in product.inputs} == {"Reshape", "Sub"}
    assert not check_pass(LogSigmoid(), model, {"x": X, "w": X[:, 0]})


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x)  p = Tanh(x)  d = Div(x, p)  t = Sub(one, s)  u = Mul(s, t)  y = Mul(d, u)",  # another quotient
        "s = Sigmoid(x)  d = Div(x, s)  t = Sub(two, s)  u = Mul(s, t)  y = Mul(d, u)",  # not 1 - s
        "s = Sigmoid(x)  d = Div(x, s)  y = Mul(d, x)",
        "s = Abs(x)  y = Log(s)",
    ],
)
def test_what_stays(body: str) -> None:
    model = graph(f"g (float[B, 1] x) => (float[B, 1] y) {{ {body} }}", {**ONE, "two": np.full((), 2.0, np.float32)})
    assert not check_pass(LogSigmoid(), model, {"x": X})


ENERGIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "column": lambda x: -torch.log(torch.sigmoid(x)),
    "flat": lambda x: -torch.log(torch.sigmoid(x).squeeze(1)),
    "weighted": lambda x: -2.0 * torch.log(torch.sigmoid(3 * x)).sum(1),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ENERGIES)
def test_engines_hold_where_the_sigmoid_saturates(name: str, engine: str, precision: str, tmp_path: Path) -> None:
    function = ENERGIES[name]
    numbers = torch.tensor([-60.0, -25.0, -18.0, -10.0, -1.0, 0.0, 1.0, 5.0])[:, None]
    model = score_graph(make_energy(function, torch.randn(2, 1)))
    proto = ir.to_proto(model if precision == "fp32" else typed(model, precision))
    entry = target(engine).write(proto, tmp_path, precision=precision, batch=(1, 8, 16))
    feeds = {"x": numbers.numpy(), "grad_scale": np.ones(len(numbers), np.float32)}
    with open_engine(engine, tmp_path / entry["path"], precision=precision, threads=1, options={}) as opened:
        found = opened.run(feeds)
    x = numbers.double().requires_grad_()
    energy = function(x).flatten()
    (grad,) = torch.autograd.grad(energy.sum(), x)
    np.testing.assert_allclose(found["energy"], energy.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["grad"], grad, rtol=1e-5, atol=1e-6)
