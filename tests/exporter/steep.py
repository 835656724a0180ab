"""An energy whose chains multiply rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig

__all__ = ["Steep", "write_steep"]


class Steep(nn.Module):
    """Its chains in long steps multiply rounding by 1e5 within 32 of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )  # fmt: skip
        with torch.no_grad():
            for weight in self.layers.parameters():
                weight.mul_(5.0 if weight.ndim > 1 else 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(1) + 0.1 * x.square().sum(1)


def write_steep(folder: Path, **options: Any) -> Path:
    """A bundle in fp16 of it, with 32 steps in one call."""
    return export(
        Steep(10).eval(), torch.randn(4, 6), out=folder / "m.ebm", precisions=["fp16"],
        sampler=SamplerConfig(steps=64, step_size=0.3), fuse=32, gate=None, **({"targets": ["onnx"]} | options),
    )  # fmt: skip
