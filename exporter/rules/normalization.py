"""Batch normalisation with stored statistics as one scale and one shift, which fold into the convolution before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table

__all__ = ["RULES"]

aten = torch.ops.aten


def _per_channel(value: torch.Tensor, rank: int) -> torch.Tensor:
    return value.reshape(-1, *[1] * (rank - 2))


def _eval(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [B, C, *n] * scale + shift; the saved statistics are empty, as PyTorch's are."""
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    empty = x.new_zeros((0,))
    return x * _per_channel(scale, x.dim()) + _per_channel(shift, x.dim()), empty, empty


def _native(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    if training:  # an instance norm: PyTorch folds the batch into the channels
        return decomposition_table[aten.native_batch_norm.default](
            x, weight, bias, mean, variance, training, momentum, eps
        )
    assert mean is not None and variance is not None
    return _eval(x, weight, bias, mean, variance, eps)


def _no_training(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    momentum: float,
    eps: float,
) -> Any:
    return _eval(x, weight, bias, mean, variance, eps)


def _backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    saved_mean: torch.Tensor | None,
    saved_invstd: torch.Tensor | None,
    training: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> Any:
    if training or output_mask[1] or output_mask[2]:
        return decomposition_table[aten.native_batch_norm_backward.default](
            grad, x, weight, mean, variance, saved_mean, saved_invstd, training, eps, output_mask
        )
    assert variance is not None
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight
    return grad * _per_channel(scale, x.dim()), None, None


RULES = {
    aten.native_batch_norm.default: _native,
    aten._native_batch_norm_legit_no_training.default: _no_training,
    aten.native_batch_norm_backward.default: _backward,
}
