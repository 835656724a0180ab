"""Sparse matrices that a model keeps, and those that it makes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter.contract import check_contract
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.module_copy import copy_module
from ebm_export.exporter.trace import trace
from ebm_export.runtime.errors import ContractError

from .referee import score_graph, session

LAYOUTS = {
    "coo": lambda matrix: matrix.to_sparse(),
    "csr": lambda matrix: matrix.to_sparse_csr(),
    "csc": lambda matrix: matrix.to_sparse_csc(),
}


class Graph(nn.Module):
    """Sums of neighbours [B, 4, 5]."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sparse CSR is "in beta state"
            matrix = LAYOUTS[layout](torch.tensor([[0.0, 1, 0, 2], [0, 0, 3, 0], [1, 0, 0, 0], [0, 4, 0, 0]]))
        self.register_buffer("neighbours", matrix)
        self.weight = nn.Parameter(matrix.clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = x.transpose(0, 1).flatten(1)  # [4, B * 5]
        h = torch.sparse.mm(self.neighbours, nodes) + torch.mm(self.weight, nodes.sin())
        return h.reshape(4, -1, 5).tanh().sum((0, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_constant_one_becomes_dense(layout: str) -> None:
    model = Graph(layout).eval()
    opened = session(score_graph(make_energy(model, torch.zeros(2, 4, 5))))
    x = torch.randn(3, 4, 5, requires_grad=True)
    expected = model(x)
    (grad,) = torch.autograd.grad(expected.sum(), x)
    value, slope = opened.run(["energy", "grad"], {"x": x.detach().numpy(), "grad_scale": np.ones(3, np.float32)})
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, grad.numpy(), rtol=1e-5, atol=1e-6)
    assert model.neighbours.layout is not torch.strided, "the model itself has changed"


def test_copies_know_a_parameter_from_a_buffer() -> None:
    copied = copy_module(Graph("csr"))
    assert {name for name, _ in copied.named_parameters()} == {"weight"}
    assert copied.weight.layout is torch.strided


def test_a_forward_that_takes_sparse_ones_only_is_told_why() -> None:
    class Coalesced(Graph):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.neighbours.coalesce()
            return super().forward(x)

    with pytest.raises(ContractError, match=r"sparse matrices \(weight, neighbours\) are dense in an export"):
        check_contract(make_energy(Coalesced("coo").eval(), torch.randn(2, 4, 5)))


def test_one_that_forward_makes_is_refused_with_its_place() -> None:
    def energy(x: torch.Tensor) -> torch.Tensor:
        matrix = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 2]]), torch.ones(2), (3, 3), check_invariants=False)
        return torch.sparse.mm(matrix, x.t()).sin().sum(0)

    text = r"sparse tensors are not supported in the model itself \(test_sparse\.py:\d+, in energy\); keep the matrix dense"
    with pytest.raises(ContractError, match=text):
        trace(make_energy(energy, torch.zeros(2, 3)))
