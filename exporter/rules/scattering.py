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

    Left as it is along the batch, and where index and x are too large.
    """
    if x.dim() == 0 or index.dim() == 0:
        return NotImplemented
    dim = dim % x.dim()
    if dim == 0 or x.shape[0] != index.shape[0]:
        return NotImplemented
    if math.prod(index.shape[1:]) * x.shape[dim] > _LARGEST:
        return NotImplemented
    source = source[tuple(slice(0, n) for n in index.shape)]
    places = constant(lambda: torch.arange(x.shape[dim]))
    hit = index.movedim(dim, -1).unsqueeze(-1) == places  # [.., k, n]
    added = torch.where(hit, source.movedim(dim, -1).unsqueeze(-1), 0.0).sum(-2)
    added = added.movedim(-1, dim)
    # An index may cover the leading part alone of the other dimensions.
    missing = [(0, n - m) for n, m in zip(x.shape, added.shape, strict=True)]
    if any(after for _, after in missing):
        added = F.pad(added, [n for pair in reversed(missing) for n in pair])
    return x + added


RULES = {aten.scatter_add.default: _scatter_add}
