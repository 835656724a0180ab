"""Where an energy may be infinite beside a finite gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.passes.infinite_energy import may_be_infinite_alone

from ..referee import score_graph

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
HEADS = nn.MultiheadAttention(4, 2, batch_first=True)


def attention(x: torch.Tensor) -> torch.Tensor:
    hidden = x.unsqueeze(2).expand(-1, -1, 4)
    return HEADS(hidden, hidden, hidden, need_weights=False)[0].sum((1, 2))


def masked(x: torch.Tensor) -> torch.Tensor:
    scores = (x.unsqueeze(1) * x.unsqueeze(2)).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    return (scores.softmax(2) @ x.unsqueeze(2)).sum((1, 2))


CANNOT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "perceptron": lambda x: NET(x).squeeze(1),
    "spring": lambda x: NET(x).squeeze(1) + 0.5 * x.square().sum(1) + x.clamp(-1, 1).abs().mean(1),
    "attention": attention,
    "masked attention": masked,
    "log inside": lambda x: NET(torch.log(1 + x.square())).squeeze(1),
    "clipped wall": lambda x: NET(x).squeeze(1) + torch.where(x[:, 0] > 2, torch.inf, 0.0).clamp(0, 1e4),
    "high wall": lambda x: x.square().sum(1) + torch.where(x[:, 0] > 2, 1e4, 0.0),
}
MAY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "wall": lambda x: NET(x).squeeze(1) + torch.where(x[:, 0] > 2, torch.inf, 0.0),
    "wall by a mask": lambda x: x.square().masked_fill(x > 2, torch.inf).sum(1),
    "not a number behind it": lambda x: NET(x).squeeze(1) + torch.where(x[:, 0] > 2, torch.nan, 0.0),
    "wall clipped at one end": lambda x: NET(x).squeeze(1) + torch.where(x[:, 0] > 2, torch.inf, 0.0).clamp(min=0),
    "detached": lambda x: NET(x).squeeze(1) - torch.log(torch.relu(x.detach())).sum(1),
    "log at the end": lambda x: torch.log(NET(x).squeeze(1).square()),
    "a step divided by": lambda x: NET(x).squeeze(1) + (1 / torch.floor(x)).sum(1),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_is_finite_beside_its_gradient(name: str) -> None:
    assert not may_be_infinite_alone(score_graph(make_energy(CANNOT[name], torch.randn(4, 3))).graph)


@pytest.mark.parametrize("name", MAY)
def test_what_may_be_infinite_alone(name: str) -> None:
    assert may_be_infinite_alone(score_graph(make_energy(MAY[name], 0.5 + torch.rand(4, 3))).graph)
