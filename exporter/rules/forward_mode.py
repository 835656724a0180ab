"""What forward-mode differentiation (`torch.func.jvp`, `jacfwd`, `hessian`) makes beside ordinary operations."""

from __future__ import annotations

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _zeros_like_another(primal: torch.Tensor, other: torch.Tensor, *, self_num_batch_dims: int = 0) -> torch.Tensor:
    """Zeros in the shape of another tensor, behind the batch dimensions of the first."""
    return other.new_zeros([*primal.shape[:self_num_batch_dims], *other.shape])


RULES = {
    aten._new_zeros_with_same_feature_meta.default: _zeros_like_another,
}
