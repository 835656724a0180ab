"""Adding at places given by a tensor, without a scatter: TensorRT has none that adds, nor onnxruntime one in FP16."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from .constant import constant

__all__ = ["RULES"]

aten = torch.ops.aten

_LARGEST = 1 << 20
"""Comparisons for each sample up to which comparing every place with every index is taken to be the cheaper way."""


def _scatter_add(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> Any:
    """x[.., j, ..] + sum over k of source[.., k, ..] where index[.., k, ..] == j.

    An index that is smaller than x in another dimension adds to the leading part of x alone. Left as it is where that
    is so in the first dimension, or where index and x are too large.
    """
    if x.dim() == 0 or index.dim() == 0:
        return NotImplemented
    dim = dim % x.dim()
    behind = [0 if d == dim else x.shape[d] - index.shape[d] for d in range(x.dim())]
    if behind[0]:
        return NotImplemented
    if math.prod(index.shape[1:]) * x.shape[dim] > _LARGEST:
        return NotImplemented
    source = source[tuple(slice(0, n) for n in index.shape)]
    places = constant(lambda: torch.arange(x.shape[dim]))
    hit = index.movedim(dim, -1).unsqueeze(-1) == places  # [.., k, n]
    added = torch.where(hit, source.movedim(dim, -1).unsqueeze(-1), 0.0).sum(-2)
    added = added.movedim(-1, dim)
    if any(behind):
        added = F.pad(added, [end for n in reversed(behind) for end in (0, n)])
    return x + added


RULES = {aten.scatter_add.default: _scatter_add}
