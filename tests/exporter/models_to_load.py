"""Small energies that the loading tests write to files of every form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "ConditionalEnergy",
    "ConvEnergy",
    "LevelEnergy",
    "MlpEnergy",
    "energy_and_gradient",
    "make_classifier",
    "make_conv",
]


class ConvEnergy(nn.Module):
    """A convolutional energy of [B, 1, 8, 8] whose forward uses the batch size in every way people write it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.head = nn.Linear(width * 64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        h = F.silu(self.norm(self.conv(x)))
        tokens = torch.cat([self.token.expand(batch, -1, -1), h.flatten(2).transpose(1, 2)], dim=1)
        mixed = torch.softmax(tokens @ tokens.transpose(1, 2), dim=-1) @ tokens + torch.zeros(batch, 1, 1)
        return self.head(h.view(batch, -1)).view(batch) + mixed.square().sum(dim=(1, 2))


class MlpEnergy(nn.Module):
    """An energy of [B, 4] that loops, branches and keeps lists, which scripting records and tracing unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.drop = nn.Dropout(0.5)
        self.residual = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, size = x.shape
        hidden = [torch.tanh(self.first(x))]
        for layer in self.layers:
            hidden.append(torch.tanh(layer(hidden[-1])))
        if self.residual:
            y = torch.cat(hidden, 1)
        else:
            y = hidden[0]
        total = torch.zeros(batch, 1)
        for i in range(size - 1):
            total = total + y[:, i : i + 2].prod(dim=1, keepdim=True)
        return (self.drop(y).view(batch, -1).sum(1) + total.squeeze(1)).float()


class ConditionalEnergy(nn.Module):
    """E(obs, action): the refined input is the second, and a third has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 8)
        self.join = nn.Linear(10, 1)

    def forward(self, obs: torch.Tensor, action: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return scale * self.join(torch.tanh(torch.cat([self.encode(obs), action], dim=1)))


class LevelEnergy(nn.Module):
    """E(x, sigma): of noise levels, [B] or [B, L], it takes the logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.out = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([x, self.embed(sigma.reshape(len(sigma), -1).log().sum(1, keepdim=True))], dim=1)
        return torch.tanh(self.out(joined)) + 0.5 * x.square().sum(1, keepdim=True)


def make_conv(width: int = 4) -> ConvEnergy:
    """What --model names in the tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConvEnergy(width)
    for name, buffer in model.norm.named_buffers():
        if name == "running_var":
            buffer.fill_(0.7)
    return model.eval()


def make_classifier() -> nn.Sequential:
    """Logits [B, 5] of [B, 4]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 5)).eval()


def energy_and_gradient(model: nn.Module, *inputs: torch.Tensor, wrt: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies [B] and the gradient of their sum in one input."""
    leaf = inputs[wrt].detach().clone().requires_grad_()
    energy = model(*(leaf if i == wrt else value for i, value in enumerate(inputs))).flatten()
    (grad,) = torch.autograd.grad(energy.sum(), leaf)
    return energy.detach(), grad
