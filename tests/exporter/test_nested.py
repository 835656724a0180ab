"""Models that keep tensors whose rows have lengths of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ebm_export.exporter.contract import check_contract
from ebm_export.exporter.energy import make_energy
from ebm_export.runtime.errors import ContractError


class Kept(nn.Module):
    """Sums of rows of x [B, 3], with a tensor that a forward need not even use."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin().sum(1)


def as_buffer(module: nn.Module, value: torch.Tensor) -> None:
    module.register_buffer("rows", value)


def as_parameter(module: nn.Module, value: torch.Tensor) -> None:
    module.rows = nn.Parameter(value, requires_grad=False)


def as_attribute(module: nn.Module, value: torch.Tensor) -> None:
    module.rows = [value]  # type: ignore[assignment]


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
@pytest.mark.parametrize("keep", [as_buffer, as_parameter, as_attribute])
def test_one_that_is_kept_is_refused_by_name(
    layout: torch.layout, keep: Callable[[nn.Module, torch.Tensor], None]
) -> None:
    model = nn.Sequential(Kept())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are "in prototype stage"
        keep(model[0], torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout))
    with pytest.raises(ContractError, match=r"^0\.rows is a nested tensor, .*: keep its rows padded"):
        check_contract(make_energy(model.eval(), torch.randn(2, 3)))
