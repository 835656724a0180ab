"""Normalisations and their gradients in closed form.

With xhat = (x - mean) * rstd the gradient at x of every normalisation is rstd * (h - mean(h) - xhat * mean(h * xhat)) for
the gradient h at xhat, the means taken over the same elements (Ioffe and Szegedy, arXiv:1502.03167, section 3, written
for one set). xhat is the node that the value uses. A batch norm with stored statistics is one scale and one shift, which
fold into the convolution before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _statistics(x: torch.Tensor, dims: Sequence[int], eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and reciprocal standard deviation over `dims`, kept as size 1."""
    mean = x.mean(list(dims), keepdim=True)
    deviation = x - mean
    return mean, torch.rsqrt((deviation * deviation).mean(list(dims), keepdim=True) + eps)


def _gradient(h: torch.Tensor, xhat: torch.Tensor, rstd: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    own = h.mean(list(dims), keepdim=True)
    shared = (h * xhat).mean(list(dims), keepdim=True)
    return rstd * (h - own - xhat * shared)


def _affine(xhat: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    if weight is not None:
        xhat = xhat * weight
    return xhat if bias is None else xhat + bias


def _per_channel(value: torch.Tensor | None, rank: int) -> torch.Tensor | None:
    return None if value is None else value.reshape(-1, *[1] * (rank - 2))


# Layer norm.


def _layer_norm(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dims = range(x.dim() - len(shape), x.dim())
    mean, rstd = _statistics(x, dims, eps)
    return _affine((x - mean) * rstd, weight, bias), mean, rstd


def _layer_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    shape: Sequence[int],
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> Any:
    if output_mask[1] or output_mask[2]:
        return NotImplemented
    dims = range(x.dim() - len(shape), x.dim())
    h = grad if weight is None else grad * weight
    return _gradient(h, (x - mean) * rstd, rstd, dims), None, None


# Group norm: [N, C, *n] as [N, groups, C / groups * prod(n)].


def _group_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    batch: int,
    channels: int,
    area: int,
    groups: int,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grouped = x.reshape(batch, groups, -1)
    mean, rstd = _statistics(grouped, [2], eps)
    xhat = ((grouped - mean) * rstd).reshape(x.shape)
    out = _affine(xhat, _per_channel(weight, x.dim()), _per_channel(bias, x.dim()))
    return out, mean.squeeze(2), rstd.squeeze(2)


def _group_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    batch: int,
    channels: int,
    area: int,
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    if output_mask[1] or output_mask[2]:
        return NotImplemented
    scale = _per_channel(weight, x.dim())
    h = (grad if scale is None else grad * scale).reshape(batch, groups, -1)
    mean, rstd = mean.unsqueeze(2), rstd.unsqueeze(2)
    xhat = (x.reshape(batch, groups, -1) - mean) * rstd
    return _gradient(h, xhat, rstd, [2]).reshape(x.shape), None, None


# Batch norm: stored statistics, or those of the batch, which is how PyTorch computes an instance norm (the samples are
# folded into the channels before).


def _stored(
    weight: torch.Tensor | None, bias: torch.Tensor | None, mean: torch.Tensor, variance: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift [C] of a batch norm with stored statistics."""
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if training:
        dims = [0, *range(2, x.dim())]
        own, rstd = _statistics(x, dims, eps)
        out = _affine((x - own) * rstd, _per_channel(weight, x.dim()), _per_channel(bias, x.dim()))
        return out, own.squeeze(dims), rstd.squeeze(dims)
    assert mean is not None and variance is not None
    return _batch_norm_stored(x, weight, bias, mean, variance, momentum, eps)


def _batch_norm_stored(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scale, shift = _stored(weight, bias, mean, variance, eps)
    unused = x.new_zeros((0,))  # PyTorch saves no statistics either
    return _affine(x, _per_channel(scale, x.dim()), _per_channel(shift, x.dim())), unused, unused


def _batch_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    saved_mean: torch.Tensor | None,
    saved_rstd: torch.Tensor | None,
    training: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> Any:
    if output_mask[1] or output_mask[2]:
        return NotImplemented
    rank = x.dim()
    if not training:
        assert mean is not None and variance is not None
        scale, _ = _stored(weight, None, mean, variance, eps)
        return grad * scale.reshape(-1, *[1] * (rank - 2)), None, None
    assert saved_mean is not None and saved_rstd is not None
    scale_of = _per_channel(weight, rank)
    h = grad if scale_of is None else grad * scale_of
    rstd = saved_rstd.reshape(-1, *[1] * (rank - 2))
    xhat = (x - saved_mean.reshape(-1, *[1] * (rank - 2))) * rstd
    return _gradient(h, xhat, rstd, [0, *range(2, rank)]), None, None


# RMS norm.


def _rms_norm(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """X / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, arXiv:1910.07467)."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    rstd = torch.rsqrt((x * x).mean(dims, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return _affine(x * rstd, weight, None), rstd


def _rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    shape: Sequence[int],
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> Any:
    if output_mask[1]:
        return NotImplemented
    dims = list(range(x.dim() - len(shape), x.dim()))
    h = grad if weight is None else grad * weight
    xhat = x * rstd
    return rstd * (h - xhat * (h * xhat).mean(dims, keepdim=True)), None


RULES = {
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_backward,
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm_stored,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten._fused_rms_norm.default: _rms_norm,
    aten._fused_rms_norm_backward.default: _rms_norm_backward,
}
