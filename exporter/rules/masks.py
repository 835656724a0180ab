"""Indexing with boolean masks, as indexing with positions or as a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _positions(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Masks as positions. Those of a constant mask are folded; of any other no graph can tell how many they are."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            found += index.nonzero().unbind(1)
        else:
            found.append(index)
    return found


def _has_mask(indices: Sequence[torch.Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _index(x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> Any:
    """x[indices] with masks turned into positions."""
    return aten.index.Tensor(x, _positions(indices)) if _has_mask(indices) else NotImplemented


def _index_put(
    x: torch.Tensor, indices: Sequence[torch.Tensor | None], values: torch.Tensor, accumulate: bool = False
) -> Any:
    """Writes under a mask: one value for all of it is a choice between value and x."""
    if not _has_mask(indices):
        return NotImplemented
    mask = indices[0]
    if len(indices) == 1 and mask is not None and values.numel() == 1:
        spread = mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim()))
        value = values.reshape(())
        return torch.where(spread, x + value if accumulate else value, x)
    return aten.index_put.default(x, _positions(indices), values, accumulate)


RULES = {
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
}
