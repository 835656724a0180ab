"""Sparse matrices that a model keeps, and those that it makes."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import sparse
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


def diagonal(layout: str, size: int, blocks: int = 1) -> torch.Tensor:
    """A [size, size] matrix in one of PyTorch's layouts with `blocks` numbers in each row; nothing dense is made."""
    rows = torch.arange(size).repeat_interleave(blocks)
    columns = (rows + torch.arange(blocks).repeat(size)) % size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = torch.sparse_coo_tensor(
            torch.stack([rows, columns]), torch.ones(len(rows)), (size, size), check_invariants=False
        )
        return {"coo": matrix, "csr": matrix.to_sparse_csr(), "csc": matrix.to_sparse_csc()}[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_becomes_far_larger_is_told(layout: str, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Module()
    model.register_buffer("left", diagonal(layout, 3000))
    sparse.warn_of_dense(model)
    assert not caplog.messages, "34 MiB are not large"
    model.inner = nn.Module()
    model.inner.register_buffer("right", diagonal(layout, 3000))
    sparse.warn_of_dense(model)
    (said,) = caplog.messages
    assert said.startswith(
        "2 sparse matrices (left, inner.right) become dense, as no engine has others: 69 MiB in place of 0.1"
    )


def test_one_alone_is_told_of_as_one(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Module()
    model.register_buffer("left", diagonal("coo", 5000))
    sparse.warn_of_dense(model)
    (said,) = caplog.messages
    assert said.startswith("1 sparse matrix (left) becomes dense, as no engine has others: 95 MiB in place of 0.09")


def test_one_that_is_hardly_sparse_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Module()
    model.register_buffer(
        "matrix", diagonal("coo", 5000, 500)
    )  # 95 MiB, of which a tenth is there, with 16 bytes of places each
    sparse.warn_of_dense(model)
    assert not caplog.messages


def test_it_is_told_once_where_a_model_is_checked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(sparse, "_LARGE", 100)
    monkeypatch.setattr(sparse, "_FAR_LARGER", 0.1)
    energy = make_energy(Graph("csr").eval(), torch.randn(2, 4, 5))
    check_contract(energy)
    trace(energy)
    assert [message.split(",")[0] for message in caplog.messages] == ["2 sparse matrices (weight"]


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
