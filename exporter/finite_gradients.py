"""Functions whose gradient, by PyTorch's formula, an engine may compute as no number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["FiniteGradients"]

aten = torch.ops.aten


def _sinc(x: torch.Tensor) -> torch.Tensor:
    """sin(s) / s with s = pi x; PyTorch divides the gradient by x^2, which OpenVINO takes for zero below x = 1e-19.

    Below s = 1/2 the series 1 - s^2 / 6 + s^4 / 120 - s^6 / 5040, whose rest is 1e-8, and whose gradient cancels nothing.
    """
    s = math.pi * x
    near = s.abs() < 0.5
    square = s * s
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    far = torch.where(near, 1.0, s)
    return torch.where(near, series, far.sin() / far)


_REPLACED = dict.fromkeys(
    (torch.sinc, torch.special.sinc, torch.Tensor.sinc, aten.sinc.default, aten.special_sinc.default), _sinc
)


class FiniteGradients(TorchFunctionMode):
    """Calls such functions in a form that has a finite gradient wherever they have one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))
