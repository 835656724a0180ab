"""The energy model of the digits example."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["DigitEnergy"]


class DigitEnergy(nn.Module):
    """A small convolutional energy of an 8x8 image: E(x) = |x|^2 / 2 - Phi(x), with Phi a convolutional net.

    The quadratic keeps E bounded below far from the data, where Phi grows about linearly, and makes
    dE/dx = x - grad Phi(x) a denoising residual: training pulls grad Phi(x) towards the clean digit that lies under x
    (see train.py). In these units exp(-E/T) is the data blurred with Gaussian noise of variance T: a temperature is a
    noise level squared.

    Few layers, SiLU in between, no normalisation: each layer that rounds adds error to a gradient that is itself the
    small difference of two images, and this gradient has to survive bfloat16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strokes = nn.Conv2d(1, 48, 3, padding=1)
        self.corners = nn.Conv2d(48, 96, 4, stride=2, padding=1)
        self.parts = nn.Conv2d(96, 96, 3, padding=1)
        self.shape = nn.Conv2d(96, 128, 4)  # sees the whole image
        self.head = nn.Linear(128, 1, bias=False)  # a bias would shift every energy alike

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Energy of a batch.

        Args:
            x: images [B, 1, 8, 8] float, -1 blank and 1 full ink, plus any noise.

        Returns:
            Energy [B], same dtype as x; lower is more likely.
        """
        h = F.silu(self.strokes(x))  # [B, 48, 8, 8]
        h = F.silu(self.corners(h))  # [B, 96, 4, 4]
        h = F.silu(self.parts(h))  # [B, 96, 4, 4]
        h = F.silu(self.shape(h))  # [B, 128, 1, 1]
        phi = self.head(h.flatten(1)).squeeze(1)  # [B]
        return 0.5 * x.square().flatten(1).sum(1) - phi
