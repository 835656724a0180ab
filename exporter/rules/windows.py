"""Sliding windows of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .constant import constant

__all__ = ["RULES"]

aten = torch.ops.aten


def _places(n: int, size: int, step: int) -> torch.Tensor:
    """[windows, size] positions that each window reads."""
    return torch.arange(0, n - size + 1, step)[:, None] + torch.arange(size)


def _unfold(x: torch.Tensor, dim: int, size: int, step: int) -> torch.Tensor:
    """[.., n, ..] -> [.., windows, .., size]."""
    if x.dim() == 0:
        return x.reshape(1)
    dim = dim % x.dim()
    places = constant(lambda: _places(x.shape[dim], size, step))
    taken = x.index_select(dim, places.reshape(-1))
    split = taken.reshape(*x.shape[:dim], *places.shape, *x.shape[dim + 1 :])
    return split.movedim(dim + 1, -1)


def _unfold_backward(grad: torch.Tensor, input_size: Sequence[int], dim: int, size: int, step: int) -> torch.Tensor:
    """Adds each window's gradient back: a product with the 0/1 matrix of who reads what."""
    if not input_size:
        return grad.reshape(())
    dim = dim % len(input_size)
    n = input_size[dim]
    reads = constant(lambda: torch.nn.functional.one_hot(_places(n, size, step).reshape(-1), n).float())
    flat = grad.movedim(-1, dim + 1).movedim((dim, dim + 1), (-2, -1))
    joined = flat.reshape(*flat.shape[:-2], -1)  # [.., windows * size]
    return torch.matmul(joined, reads.to(grad.dtype)).movedim(-1, dim)


RULES = {
    aten.unfold.default: _unfold,
    aten.unfold_backward.default: _unfold_backward,
}
