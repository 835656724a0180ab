"""Every element repeated in place: the gradient of a mean over separate windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["repeat_each"]

aten = torch.ops.aten


def repeat_each(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """[B, C, *n] -> [B, C, *(n * factors)], every element repeated in place."""
    rank = len(factors)
    if rank == 2 and factors[0] == factors[1]:
        size = [n * f for n, f in zip(x.shape[2:], factors, strict=True)]
        return aten.upsample_nearest2d.default(x, size)  # type: ignore[no-any-return]
    wide, target = list(x.shape[:2]), list(x.shape[:2])
    for n, f in zip(x.shape[2:], factors, strict=True):
        wide += [n, 1]
        target += [n, f]
    spread = x.reshape(wide).expand(target)
    return spread.reshape(*x.shape[:2], *(n * f for n, f in zip(x.shape[2:], factors, strict=True)))
