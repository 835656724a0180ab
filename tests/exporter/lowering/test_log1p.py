"""Logarithms near one, where log(1 + x) loses what 1 + x rounds off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.targets import target
from ebm_export.runtime.backends import open_engine

from ..referee import score_graph, session

NUMBERS = np.array([-0.5, -1e-3, -1e-6, 1e-8, 1e-5, 0.3, 3.0, 1e7, 1e30], np.float32)


def energies(function: Callable[[torch.Tensor], torch.Tensor], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    opened = session(score_graph(make_energy(lambda x: function(x).sum(1), torch.rand(4, 1))))
    x = numbers[:, None]
    (found,) = opened.run(["energy"], {"x": x, "grad_scale": np.ones(len(x), np.float32)})
    return found, function(torch.tensor(numbers, dtype=torch.float64)).numpy()


def test_log1p_keeps_its_bits() -> None:
    found, exact = energies(torch.log1p, NUMBERS)
    np.testing.assert_allclose(found, exact, rtol=4e-7)  # three roundings of 6e-8 each, and the logarithm's own


def test_log1p_at_its_ends() -> None:
    found, _ = energies(torch.log1p, np.array([-1.0, np.inf], np.float32))
    np.testing.assert_array_equal(found, [-np.inf, np.inf])


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_softplus_far_below_zero(beta: float) -> None:
    found, exact = energies(lambda x: F.softplus(x, beta), np.array([-25.0, -12.0, -1.0, 0.0, 2.0, 60.0], np.float32))
    np.testing.assert_allclose(found, exact, rtol=2e-6)  # exp's argument of 75 is rounded by 4e-6 / 2


def test_softplus_is_one_operation() -> None:
    model = score_graph(make_energy(lambda x: F.softplus(x).sum(1), torch.rand(4, 1)))
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Softplus") == 1
    assert "Log" not in kinds


LOGARITHMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "of_softplus": lambda x: torch.log(F.softplus(x)).sum(1),
    "of_a_flat_one": lambda x: torch.log(F.softplus(x, 2.0).squeeze(1)),
    "divided_by": lambda x: (x.exp() / F.softplus(x)).sum(1),
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", LOGARITHMS)
def test_a_logarithm_of_a_softplus_far_below_zero(name: str, engine: str, tmp_path: Path) -> None:
    function = LOGARITHMS[name]
    x = torch.tensor([-40.0, -30.0, -16.0, -8.0, -3.1, -2.9, 0.0, 2.0, 60.0])[:, None]
    graph = ir.to_proto(score_graph(make_energy(function, torch.rand(4, 1))))
    entry = target(engine).write(graph, tmp_path, precision="fp32", batch=(1, 8, 16))
    feeds = {"x": x.numpy(), "grad_scale": np.ones(len(x), np.float32)}
    with open_engine(engine, tmp_path / entry["path"], precision="fp32", threads=1, options={}) as opened:
        found = opened.run(feeds)
    exact = x.double().requires_grad_()
    energy = function(exact)
    (grad,) = torch.autograd.grad(energy.sum(), exact)
    # OpenVINO's own logarithm and softplus are off by 1e-6 of one; the series begins where that is 2e-5 of the result.
    np.testing.assert_allclose(found["energy"], energy.detach(), rtol=5e-5, atol=5e-5)
    np.testing.assert_allclose(found["grad"], grad, rtol=1e-4, atol=1e-4)
