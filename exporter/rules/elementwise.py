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


# Chebyshev coefficients of erfcc in Press et al., "Numerical Recipes in C", 2nd edition (1992), section 6.2.
_ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277,
)  # fmt: skip


def _erfc(x: torch.Tensor) -> torch.Tensor:
    """1 - erf(x) to 1.2e-7 of itself, where the difference would leave nothing from x = 4 on: some take its logarithm."""
    size = x.abs()
    t = torch.reciprocal(1 + 0.5 * size)
    series = t * _ERFC[-1]
    for coefficient in _ERFC[-2:0:-1]:
        series = t * (series + coefficient)
    tail = t * torch.exp(series + _ERFC[0] - size * size)
    return torch.where(x < 0, 2 - tail, tail)


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
    aten.erfc.default: _erfc,
    aten.hypot.default: _hypot,
    aten.round.decimals: _round,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
}
