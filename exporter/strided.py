"""Views by strides, as places in each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutStrides"]


def _as_strided(
    x: torch.Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> torch.Tensor:
    """[B, *S] -> [B, ..] where the view takes the samples one by one; what it does otherwise stays, and has no rule.

    Above autograd, where x still lies in memory as the model has it, and whose gradient is then that of an index.
    """
    row = x[:1].numel()
    first = 0 if storage_offset is None else storage_offset - x.storage_offset()
    last = first + sum((n - 1) * step for n, step in zip(size[1:], stride[1:], strict=True))
    by_sample = x.is_contiguous() and len(size) > 0 and size[0] == x.shape[0] and stride[0] == row
    if not by_sample or first < 0 or last >= row or 0 in size:
        return torch.as_strided(x, size, stride, storage_offset)
    places = torch.tensor(first)
    for n, step in zip(size[1:], stride[1:], strict=True):
        places = places.unsqueeze(-1) + step * torch.arange(n)
    return x.reshape(x.shape[0], row)[:, places]


_REPLACED = (torch.as_strided, torch.Tensor.as_strided)


class WithoutStrides(TorchFunctionMode):
    """Calls `as_strided` in a form that says which numbers it takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_as_strided if func in _REPLACED else func)(*args, **(kwargs or {}))
