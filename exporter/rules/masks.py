"""Indexing with boolean masks, as indexing with positions or as a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RULES", "is_choice"]

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
    """Writes under a mask: what is the same at all of its places is a choice between that and x."""
    if not _has_mask(indices):
        return NotImplemented
    if is_choice(x, indices, values):
        (mask,) = indices
        assert mask is not None
        value = values.reshape(()) if values.numel() == 1 else values
        spread = mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim())).to(torch.bool)
        return torch.where(spread, x + value if accumulate else value, x)
    return aten.index_put.default(x, _positions(indices), values, accumulate)


def is_choice(x: torch.Tensor, indices: Sequence[torch.Tensor | None], values: torch.Tensor) -> bool:
    """Whether x[mask] = values writes the same at every place of one mask over the first dimensions of x.

    Args:
        x: [M.., D..].
        indices: the mask, [M..]; with positions or a second mask beside it this is no choice.
        values: what broadcasts to [D..], as a token does, or to [1, D..].
    """
    if len(indices) != 1 or indices[0] is None:
        return False
    rest = x.dim() - indices[0].dim()
    return values.numel() == 1 or all(size == 1 for size in values.shape[: max(0, values.dim() - rest)])


RULES = {
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
}
