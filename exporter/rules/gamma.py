"""The logarithm of the gamma function and its derivative, to float32 accuracy over the real line.

The formulas are those of the NIST Digital Library of Mathematical Functions (DLMF), https://dlmf.nist.gov/5:

    [0.5, 2.5)  Taylor series at 2 (DLMF 5.7.3), which is exact at the zeros 1 and 2
    [2.5, 8)    Gamma(x) = (x - 1) Gamma(x - 1) (5.5.1), down into the interval above; the terms have one sign
    [8, inf)    Stirling's series (5.11.1 and 5.11.2)
    below 0.5   reflection (5.5.3 and 5.5.4), with the sine of the distance to the nearest whole number
"""

from __future__ import annotations

import math

import torch

__all__ = ["RULES"]

aten = torch.ops.aten

_EULER = 0.57721566490153286  # DLMF 5.2.3
# (-1)^k (zeta(k) - 1) for k = 2 .. 15. With |z| <= 0.5 the next term is below 1e-10.
_ZETA = tuple((-1) ** k * float(torch.special.zeta(torch.tensor(k).double(), torch.tensor(2.0).double()))
              for k in range(2, 16))  # fmt: skip
_FAR = 8.0
"""From here on three terms of Stirling's series leave less than 1e-9."""


def _lgamma(x: torch.Tensor) -> torch.Tensor:
    """log |Gamma(x)|; infinite at 0, -1, -2, .."""
    low = x < 0.5
    value = _lgamma_right(torch.where(low, 1 - x, x))
    return torch.where(low, math.log(math.pi) - torch.log(torch.sin(math.pi * _beside(x)).abs()) - value, value)


def _digamma(x: torch.Tensor) -> torch.Tensor:
    """d/dx log |Gamma(x)|; minus infinity at 0 and NaN at -1, -2, .., as PyTorch has it (where x is 0.0, not -0.0)."""
    low, beside = x < 0.5, _beside(x)
    value = _digamma_right(torch.where(low, 1 - x, x))
    reflected = value - math.pi / torch.tan(math.pi * beside)
    reflected = torch.where((beside == 0) & (x < 0), math.nan, reflected)
    return torch.where(low, reflected, value)


def _beside(x: torch.Tensor) -> torch.Tensor:
    """x minus the nearest whole number, which is exact."""
    return x - torch.round(x)


def _lgamma_right(x: torch.Tensor) -> torch.Tensor:
    """log Gamma(x) for x >= 0.5."""
    near, product, _ = _shifted(x)
    first = near < 1.5  # at 1 + z: one step of the recurrence below the series, and log(near) is exact around 1
    z = near - torch.where(first, 1.0, 2.0)
    tail = torch.zeros_like(z)
    for k in range(len(_ZETA) + 1, 1, -1):
        tail = (tail + _ZETA[k - 2] / k) * z
    series = z * (1 - _EULER + tail)
    series = series + torch.where(first, -torch.log(near), torch.log(product))
    far = x.clamp(min=_FAR)
    inverse = 1 / far
    rest = inverse * (1 / 12 - inverse * inverse * (1 / 360 - inverse * inverse / 1260))
    stirling = (far - 0.5) * (torch.log(far) - 1) + (0.5 * math.log(2 * math.pi) - 0.5) + rest
    return torch.where(x < _FAR, series, stirling)


def _digamma_right(x: torch.Tensor) -> torch.Tensor:
    """The derivative of `_lgamma_right`, term by term."""
    near, _, terms = _shifted(x)
    first = near < 1.5
    z = near - torch.where(first, 1.0, 2.0)
    tail = torch.zeros_like(z)
    for coefficient in reversed(_ZETA):
        tail = (tail + coefficient) * z
    series = 1 - _EULER + tail + torch.where(first, -1 / near, terms)
    far = x.clamp(min=_FAR)
    square = 1 / (far * far)
    stirling = torch.log(far) - 0.5 / far - square * (1 / 12 - square * (1 / 120 - square / 252))
    return torch.where(x < _FAR, series, stirling)


def _shifted(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x moved down by whole numbers into [0.5, 2.5), the product of what it passed, and the sum of its inverses.

    Args:
        x: at least 0.5; from 8 on the results are finite and of no use.
    """
    near = x.clamp(max=_FAR)
    product, terms = torch.ones_like(x), torch.zeros_like(x)
    for _ in range(6):
        above = near >= 2.5
        near = torch.where(above, near - 1, near)
        product = torch.where(above, product * near, product)
        terms = torch.where(above, terms + 1 / near, terms)
    return near, product, terms


RULES = {
    aten.lgamma.default: _lgamma,
    aten.digamma.default: _digamma,
}
