"""Which element of a window a max pool took."""

from __future__ import annotations

import torch

from .constant import constant

__all__ = ["first_maximum", "pool_indices"]


@torch.library.custom_op("ebm_export::pool_indices", mutates_args=())
def pool_indices(maximum: torch.Tensor) -> torch.Tensor:
    """Stands for the indices of a pool: only the gradient's rule, which needs none, may come after it.

    It has no lowering, so a model that reads the indices itself ends with an error instead of wrong numbers.
    """
    return torch.zeros_like(maximum, dtype=torch.int64)


def first_maximum(windows: torch.Tensor, maximum: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Gives the gradient [B, C, *out] to the first largest tap of each window [B, C, K, *out], as PyTorch does.

    Equal taps (zeros after a relu) get falling priorities, so that one tap wins whatever an engine's argmax does. Taps below
    the maximum get lower ones, all different too: where no tap equals it, as with NaN, one still wins, not all.
    """
    count = windows.shape[2]
    shape = (count, *[1] * (windows.dim() - 3))
    priority = constant(lambda: torch.arange(count, 0, -1, dtype=torch.float32).reshape(shape))
    ranked = torch.where(windows == maximum.unsqueeze(2), priority, constant(lambda: priority - count))
    wins = ranked == ranked.amax(2, keepdim=True)
    return torch.where(wins, grad.unsqueeze(2), 0.0)
