"""The energy network of IGEBM for CIFAR-10 (Du and Mordatch, arXiv:1903.08689), at the size of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Igebm"]


class _Block(nn.Module):
    """Two convolutions beside a skip; a mean over 2x2 pixels where the resolution halves."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.halve = halve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.second(F.leaky_relu(self.first(x), 0.2))
        h = F.leaky_relu(h + self.skip(x), 0.2)
        return F.avg_pool2d(h, 2) if self.halve else h


class Igebm(nn.Module):
    """Nine residual blocks over 32x32, 16x16, 8x8 and 4x4 pixels, twice as wide from the fourth on.

    Spectral norm is left out: an export folds it, so what remains is the same network.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        wide = 2 * width
        shapes = [(width, width, True), (width, width, False), (width, width, False)]
        shapes += [(width, wide, True), (wide, wide, False), (wide, wide, False)]
        shapes += [(wide, wide, True), (wide, wide, False), (wide, wide, False)]
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.blocks = nn.Sequential(*(_Block(i, o, halve=halve) for i, o, halve in shapes))
        self.head = nn.Linear(wide, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, 32, 32] -> [B]."""
        h = self.blocks(F.leaky_relu(self.stem(x), 0.2))
        return self.head(F.relu(h).sum((2, 3))).squeeze(1)
