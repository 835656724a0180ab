"""The models that INT8 and mixed exports are tested with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.runtime import SamplerConfig

SHAPE = (2, 8, 8)
CONFIG = SamplerConfig(steps=8, step_size=0.1, temperature=0.1)
FEW = 0.5
"""A smallest difference of half a standard deviation takes the fewest chains, 128."""


class Residual(nn.Module):
    """A residual net over a bowl: samples spread around its minima at a temperature of 0.1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.stem = nn.Conv2d(2, 16, 3, padding=1)
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.down, self.head = nn.Conv2d(16, 24, 3, 2, 1), nn.Linear(24, 1)
        for conv in (self.stem, self.first, self.second, self.down):
            conv.weight.data *= 2  # so that the net pulls about as hard as the bowl

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.stem(x))
        h = F.silu(h + self.second(F.silu(self.first(h))))
        h = F.silu(self.down(h))
        return 80 * self.head(h.mean((2, 3))).squeeze(1) + 0.5 * x.square().sum((1, 2, 3))


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"out": tmp_path / "net.ebm", "sampler": CONFIG, "smallest_difference": FEW, **more}


class Seeing(nn.Module):
    """A policy: an image encoder, and a perceptron over a bowl around what it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 4))
        self.judge = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, action: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        seen = self.encoder(image)
        return self.judge(torch.cat([seen, action], 1)).squeeze(1) + (action - seen).square().sum(1)


def pictures(count: int, seed: int) -> torch.Tensor:
    """A wave in each colour, of its own direction, phase and strength: what an encoder tells apart."""
    generator = torch.Generator().manual_seed(seed)
    direction, strength, phase = (torch.rand(count, 3, 1, 1, generator=generator) for _ in range(3))
    place = torch.linspace(0, 1, 16)
    return 0.5 + strength * torch.sin(6 * (direction * place + (1 - direction) * place[:, None] + phase)) / 2


IMAGES = pictures(40, 5)
