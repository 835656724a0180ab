"""Reducing at places given by a tensor, without a scatter: TensorRT has none that adds, nor onnxruntime one in FP16."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .constant import constant

__all__ = ["RULES"]

aten = torch.ops.aten

_LARGEST = 1 << 20
"""Comparisons for each sample up to which comparing every place with every index is taken to be the cheaper way."""


def _fits(x: torch.Tensor, dim: int, index: torch.Tensor) -> bool:
    """Whether the comparisons are few enough; along the batch they are never."""
    if x.dim() == 0 or index.dim() == 0 or dim % x.dim() == 0 or x.shape[0] != index.shape[0]:
        return False
    return math.prod(index.shape[1:]) * x.shape[dim] <= _LARGEST


def _gathered(
    x: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    source: torch.Tensor,
    neutral: float,
    reduce: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Reduces source[.., k, ..] over all k where index[.., k, ..] == j, for each place j of x.

    Args:
        x: [.., n, ..], only its shape counts.
        dim: the dimension of the n places.
        index: [.., m, ..]; it may cover the leading part alone of x's other dimensions.
        source: the values, at least as large as index.
        neutral: stands wherever nothing is reduced.
        reduce: reduces [.., m, n] over its last dimension but one.

    Returns:
        In the shape of x.
    """
    source = source[tuple(slice(0, n) for n in index.shape)]
    places = constant(lambda: torch.arange(x.shape[dim]))
    hit = index.movedim(dim, -1).unsqueeze(-1) == places  # [.., m, n]
    value = reduce(torch.where(hit, source.movedim(dim, -1).unsqueeze(-1), neutral)).movedim(-1, dim)
    missing = [(0, n - m) for n, m in zip(x.shape, value.shape, strict=True)]
    if any(after for _, after in missing):
        value = F.pad(value, [n for pair in reversed(missing) for n in pair], value=neutral)
    return value


def _sum(value: torch.Tensor) -> torch.Tensor:
    return value.sum(-2, dtype=value.dtype)  # a sum of small integers is int64 otherwise


def _scatter_add(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> Any:
    """x[.., j, ..] + sum over k of source[.., k, ..] where index[.., k, ..] == j.

    Left as it is along the batch, and where index and x are too large.
    """
    if not _fits(x, dim, index):
        return NotImplemented
    return x + _gathered(x, dim % x.dim(), index, source, 0, _sum)


_REDUCTIONS: dict[str, tuple[float, Callable[[torch.Tensor], torch.Tensor], Callable[..., torch.Tensor]]] = {
    "sum": (0, _sum, torch.add),
    "mean": (0, _sum, torch.add),
    "prod": (1, lambda value: value.prod(-2, dtype=value.dtype), torch.mul),
    "amax": (-math.inf, lambda value: value.amax(-2), torch.maximum),
    "amin": (math.inf, lambda value: value.amin(-2), torch.minimum),
}
"""By the name of a reduction: its neutral number, itself along a dimension, itself for two numbers."""


def _scatter_reduce(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """Reduces x[.., j, ..], where include_self, and source[.., k, ..] for all k where index[.., k, ..] == j.

    A place that no index names keeps its x. Left as it is along the batch, where index and x are too large, and for
    the mean and the extremes of integers, which have no such neutral number.
    """
    if not _fits(x, dim, index) or (not x.is_floating_point() and reduce not in ("sum", "prod")):
        return NotImplemented
    dim = dim % x.dim()
    neutral, along, of_two = _REDUCTIONS[reduce]
    value = _gathered(x, dim, index, source, neutral, along)
    if include_self and reduce != "mean":
        return of_two(x, value)
    times = _gathered(x, dim, index, torch.ones_like(source), 0, _sum)
    if reduce != "mean":
        return torch.where(times > 0, value, x)
    if include_self:
        return (x + value) / (1 + times)
    return torch.where(times > 0, value / times.clamp(min=1), x)


RULES = {aten.scatter_add.default: _scatter_add, aten.scatter_reduce.two: _scatter_reduce}
