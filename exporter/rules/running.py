"""Running products and maxima, which ONNX lacks: all prefixes at once, under a triangular mask."""

from __future__ import annotations

from typing import Any

import torch

from .constant import constant

__all__ = ["RULES"]

aten = torch.ops.aten


def _prefixes(x: torch.Tensor, dim: int, fill: float) -> torch.Tensor:
    """[.., n, ..] -> [.., n, n] with the prefix up to i in row i, `fill` behind it; `dim` is moved last."""
    n = x.shape[dim]
    mask = constant(lambda: torch.ones(n, n).tril().bool())
    return torch.where(mask, x.movedim(dim, -1).unsqueeze(-2), fill)


def _cumprod(x: torch.Tensor, dim: int, *, dtype: Any = None) -> torch.Tensor:
    """Products of the prefixes along dim."""
    if x.dim() == 0:
        return x
    return _prefixes(x if dtype is None else x.to(dtype), dim, 1.0).prod(-1).movedim(-1, dim)


def _logcumsumexp(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Log of the sums of exponentials of the prefixes; the prefix's own maximum keeps the exponents finite."""
    if x.dim() == 0:
        return x
    return torch.logsumexp(_prefixes(x, dim, -torch.inf), -1).movedim(-1, dim)


def _cummax(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    prefixes = _prefixes(x, dim, -torch.inf)
    return _with_last_place(prefixes, prefixes.amax(-1), dim)


def _cummin(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    prefixes = _prefixes(x, dim, torch.inf)
    return _with_last_place(prefixes, prefixes.amin(-1), dim)


def _with_last_place(prefixes: torch.Tensor, values: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [.., n] of prefixes [.., n, n] and their places, both moved to `dim`; the last of equal ones, as PyTorch's.

    The rank of what is no such place is below all others, so that no engine has to choose among equal ranks.
    """
    n = prefixes.shape[-1]
    inside = constant(lambda: torch.ones(n, n).tril().bool())  # an infinite value equals what fills a prefix up
    rank = constant(lambda: torch.arange(n, dtype=torch.float32))
    places = torch.where((prefixes == values.unsqueeze(-1)) & inside, rank, -1.0).argmax(-1)
    return values.movedim(-1, dim), places.movedim(-1, dim)


def _kth(x: torch.Tensor, k: int, dim: int, keepdim: bool) -> tuple[torch.Tensor, torch.Tensor]:
    values, places = x.sort(dim)
    pair = values.narrow(dim, k, 1), places.narrow(dim, k, 1)
    return pair if keepdim else (pair[0].squeeze(dim), pair[1].squeeze(dim))


def _median(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The lower median, as PyTorch's."""
    return _kth(x, (x.shape[dim] - 1) // 2, dim, keepdim)


def _kthvalue(x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return _kth(x, k - 1, dim, keepdim)


RULES = {
    aten.cumprod.default: _cumprod,
    aten.logcumsumexp.default: _logcumsumexp,
    aten.cummax.default: _cummax,
    aten.cummin.default: _cummin,
    aten.median.dim: _median,
    aten.kthvalue.default: _kthvalue,
}
