"""Elementwise functions that ONNX lacks."""

from __future__ import annotations

import math

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _atan2(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Angle of (x, y) in (-pi, pi]: the arctangent of the quotient that is at most one, turned into its octant.

    Zero for (0, 0), as PyTorch's; the sign of a zero y is not looked at, so (-1, -0.0) gives pi, not -pi.
    """
    a, b = y.abs(), x.abs()
    high = torch.maximum(a, b)
    ratio = torch.minimum(a, b) / torch.where(high == 0, 1.0, high)
    angle = torch.atan(ratio)
    angle = torch.where(a > b, math.pi / 2 - angle, angle)
    angle = torch.where(x < 0, math.pi - angle, angle)
    return torch.where(y < 0, -angle, angle)


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """sqrt(a^2 + b^2), scaled by the larger so that squaring cannot overflow."""
    a, b = a.abs(), b.abs()
    high = torch.maximum(a, b)
    ratio = torch.minimum(a, b) / torch.where(high == 0, 1.0, high)
    return high * torch.sqrt(1 + ratio * ratio)


def _round(x: torch.Tensor, *, decimals: int) -> torch.Tensor:
    """Rounds to so many decimals, half to even."""
    scale = 10.0**decimals
    return torch.round(x * scale) / scale


def _fmax(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The larger; NaN only where both are."""
    return torch.where(torch.isnan(a), b, torch.where(torch.isnan(b), a, torch.maximum(a, b)))


def _fmin(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The smaller; NaN only where both are."""
    return torch.where(torch.isnan(a), b, torch.where(torch.isnan(b), a, torch.minimum(a, b)))


def _signbit(x: torch.Tensor) -> torch.Tensor:
    """True for negative numbers and for -0.0, whose inverse is minus infinity; False for every NaN."""
    if not x.is_floating_point():
        return x < 0
    return (x < 0) | ((x == 0) & (1 / x < 0))


def _copysign(x: torch.Tensor, sign: torch.Tensor | float) -> torch.Tensor:
    """|x| with the sign of another number, that of zeros included."""
    size = x.abs()
    if not isinstance(sign, torch.Tensor):
        return -size if math.copysign(1.0, sign) < 0 else size
    return torch.where(_signbit(sign), -size, size)


RULES = {
    aten.signbit.default: _signbit,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign,
    aten.atan2.default: _atan2,
    aten.hypot.default: _hypot,
    aten.round.decimals: _round,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
}
