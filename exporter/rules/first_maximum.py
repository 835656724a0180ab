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

    Equal taps (zeros after a relu) get falling priorities, so that one tap wins whatever an engine's argmax does.
    """
    count = windows.shape[2]
    priority = constant(lambda: torch.arange(count, 0, -1, dtype=torch.float32))
    rank = windows.dim() - 3
    ranked = torch.where(windows == maximum.unsqueeze(2), priority.reshape(count, *[1] * rank), 0.0)
    wins = ranked == ranked.amax(2, keepdim=True)
    return torch.where(wins, grad.unsqueeze(2), 0.0)
