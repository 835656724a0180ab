"""WRN-28-10 without normalisation, the classifier that JEM reads as an energy (Grathwohl et al., arXiv:1912.03263)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["WideResNet"]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.second = nn.Conv2d(outputs, outputs, 3, stride, 1)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(F.leaky_relu(x, 0.2))
        return self.second(F.leaky_relu(h, 0.2)) + self.skip(x)


class WideResNet(nn.Module):
    """x [B, 3, 32, 32] -> -logsumexp of ten logits, [B]."""

    def __init__(self, depth: int = 28, widen: int = 10) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1)]
        for group, stride in enumerate((1, 2, 2)):
            for block in range(blocks):
                inputs = widths[group] if block == 0 else widths[group + 1]
                layers.append(_Block(inputs, widths[group + 1], stride if block == 0 else 1))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.leaky_relu(self.body(x), 0.2).mean((2, 3))
        return -torch.logsumexp(self.head(h), 1)
