"""Models that PyTorch has quantized are refused for what they are."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from ebm_export.exporter import make_energy
from ebm_export.exporter.contract import check_contract
from ebm_export.runtime.errors import ContractError


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x[None])[0][0].sum(1)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), r"0 is a quantized layer \(Linear\)"),
        (Recurrent(), r"cell is a quantized layer \(LSTM\)"),
    ],
)
def test_dynamically_quantized(model: nn.Module, place: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is moving its quantizers elsewhere
        quantized = torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear, nn.LSTM})
    with pytest.raises(ContractError, match=f"{place}: .* export the float model that it was made from"):
        check_contract(make_energy(quantized, torch.randn(4, 3)))


def test_layers_that_can_be_quantized_are_not_quantized() -> None:
    model = torch.ao.nn.quantizable.MultiheadAttention(4, 2).eval()
    check_contract(make_energy(lambda x: model(x[None], x[None], x[None])[0].sum((0, 2)), torch.randn(4, 4)))
