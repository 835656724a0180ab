"""Plain zeros in place of the tangents that `torch.func.jvp`, `jacfwd` and `hessian` know to be zero."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PlainZeros"]

aten = torch.ops.aten


class PlainZeros(TorchDispatchMode):
    """Makes tensors of zeros that are stored where forward-mode differentiation asks for some that are not.

    torch 2.13 dies of a segmentation fault where the gradient of such a one is traced, or has it pass for a constant. It is made of
    sizes alone, so no rule of `exporter/rules` is asked.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._efficientzerotensor.default:
            func = aten.zeros.default
        return func(*args, **(kwargs or {}))
