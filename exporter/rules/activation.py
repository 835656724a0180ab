"""Activations, written so that value and derivative share their expensive part."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """X * Phi(x) (Hendrycks and Gimpel, arXiv:1606.08415), or its tanh form."""
    return x * _gelu_cdf(x, approximate)


def _gelu_cdf(x: torch.Tensor, approximate: str) -> torch.Tensor:
    if approximate == "tanh":
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def _gelu_backward(grad: torch.Tensor, x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """Grad * (Phi(x) + x Phi'(x)); Phi is the node that the value uses."""
    cdf = _gelu_cdf(x, approximate)
    if approximate == "tanh":
        # Phi = (1 + t) / 2, so Phi' = 2 Phi (1 - Phi) u' for the argument u of the tanh. Phi' is zero long before x * x is infinite,
        # which it is from 256 on in FP16.
        slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * (x * x)).clamp(max=1e4)
        density = 2 * cdf * (1 - cdf) * slope
    else:
        density = torch.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))
    return grad * (cdf + x * density)


def _elu(x: torch.Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> torch.Tensor:
    """Scale * x for x > 0, else scale * alpha * expm1(input_scale * x); the exponent stays finite for large x."""
    return torch.where(x > 0, x * scale, torch.expm1(x.clamp(max=0) * input_scale) * (alpha * scale))


def _elu_backward(
    grad: torch.Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, value: torch.Tensor
) -> torch.Tensor:
    if is_result:  # the saved tensor is the output: scale * alpha * exp(..) = output + scale * alpha
        return grad * torch.where(value > 0, scale, (value + alpha * scale) * input_scale)
    slope = torch.exp(value.clamp(max=0) * input_scale) * (alpha * scale * input_scale)
    return grad * torch.where(value > 0, scale, slope)


def _shrink_backward(grad: torch.Tensor, x: torch.Tensor, lambd: float) -> torch.Tensor:
    """Hard and soft shrink: zero on [-lambd, lambd], one outside."""
    return torch.where(x.abs() > lambd, grad, 0.0)


def _rrelu(
    x: torch.Tensor,
    noise: torch.Tensor,
    lower: float = 0.125,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Any:
    """Out of training a leaky relu of the mean slope."""
    if training:
        return NotImplemented
    return torch.where(x > 0, x, x * ((lower + upper) / 2))


def _rrelu_functional(x: torch.Tensor, noise: torch.Tensor, *options: Any, **more: Any) -> Any:
    result = _rrelu(x, noise, *options, **more)
    return result if result is NotImplemented else (result, noise)


RULES = {
    aten.gelu.default: _gelu,
    aten.gelu_backward.default: _gelu_backward,
    aten.elu.default: _elu,
    aten.elu_backward.default: _elu_backward,
    aten.hardshrink_backward.default: _shrink_backward,
    aten.softshrink_backward.default: _shrink_backward,
    aten.rrelu_with_noise.default: _rrelu,
    aten.rrelu_with_noise_functional.default: _rrelu_functional,
}
