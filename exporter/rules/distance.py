"""Pairwise distances."""

from __future__ import annotations

import math

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _cdist(a: torch.Tensor, b: torch.Tensor, p: float, compute_mode: int | None = None) -> torch.Tensor:
    """p-norms [.., M, N] of the differences of a [.., M, D] and b [.., N, D]."""
    difference = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p == 2:
        return (difference * difference).sum(-1).sqrt()
    size = difference.abs()
    if p == 1:
        return size.sum(-1)
    if p == 0:
        return (size != 0).to(a.dtype).sum(-1)
    if math.isinf(p):
        return size.amax(-1)
    return size.pow(p).sum(-1).pow(1 / p)


def _cdist_backward(
    grad: torch.Tensor, a: torch.Tensor, b: torch.Tensor, p: float, distance: torch.Tensor
) -> torch.Tensor:
    """Gradient [.., M, D] at a; zero where two points coincide, as PyTorch has it."""
    difference = a.unsqueeze(-2) - b.unsqueeze(-3)
    far = distance.unsqueeze(-1)
    nonzero = torch.where(far == 0, 1.0, far)
    weight = grad.unsqueeze(-1)
    if p == 2:
        share = difference / nonzero
    elif p == 1:
        share = difference.sign()
    elif p == 0:
        share = torch.zeros_like(difference)
    elif math.isinf(p):
        share = difference.sign() * (difference.abs() == far).to(a.dtype)
    else:
        share = difference.sign() * (difference.abs() / nonzero).pow(p - 1)
    return (weight * torch.where(far == 0, 0.0, share)).sum(-2)


RULES = {
    aten._cdist_forward.default: _cdist,
    aten._cdist_backward.default: _cdist_backward,
}
