"""Depth-to-space for any number of axes and any factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["interleave"]

aten = torch.ops.aten


def interleave(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Moves phases from the channels into space: out[.., q * s + r] = x[.., channel * prod(s) + r, q].

    Args:
        x: [B, C * prod(factors), *n], phases in row-major order inside each channel.
        factors: one for each spatial axis.

    Returns:
        [B, C, *(n * factors)].
    """
    if all(s == 1 for s in factors):
        return x
    rank = len(factors)
    if rank == 2 and factors[0] == factors[1]:
        return aten.pixel_shuffle.default(x, factors[0])  # type: ignore[no-any-return]
    channels = x.shape[1] // math.prod(factors)
    spread = x.reshape(x.shape[0], channels, *factors, *x.shape[2:])
    order = [0, 1]
    for axis in range(rank):
        order += [2 + rank + axis, 2 + axis]
    out = spread.permute(order)
    return out.reshape(x.shape[0], channels, *(n * s for n, s in zip(x.shape[2:], factors, strict=True)))
