"""PyTorch's own energies and gradients, which every engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from .energy import Energy
from .full_precision import FullPrecision
from .module_copy import copy_module
from .trace import input_names

__all__ = ["Reference"]


class Reference:
    """E and dE/dx of the user's model by PyTorch's autograd, in one floating-point type.

    Args:
        energy: the model; it is copied.
        dtype: torch.float32 or torch.float64.
        weights: a lower type that matrices and kernels are rounded to; they are computed with in `dtype` all the same. What has one
            dimension stays: a centre that is taken from the state is not rounded in a typed graph either.
        products: a lower type that PyTorch's autocast computes matrix products and convolutions in, and what follows them.
    """

    def __init__(
        self,
        energy: Energy,
        dtype: torch.dtype,
        weights: torch.dtype | None = None,
        products: torch.dtype | None = None,
    ) -> None:
        self._energy = energy
        self._module = copy_module(energy.module).to(dtype)
        self._module.requires_grad_(False)
        if weights is not None:
            limits = torch.finfo(weights)
            for parameter in self._module.parameters():
                if parameter.is_floating_point() and parameter.dim() > 1:
                    parameter.copy_(parameter.clamp(limits.min, limits.max).to(weights))
        self._dtype, self._products = dtype, products
        self._names = input_names(energy)

    def __call__(
        self, x: np.ndarray, *, grad_scale: np.ndarray | None = None, **cond: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates a batch.

        Args:
            x: [B, *S].
            grad_scale: [B], what the backward pass is multiplied by, and its result divided by; None is 1 each.
            cond: conditioning arrays [B, ...] by graph input name.

        Returns:
            energy [B] and grad [B, *S] in the type of this reference.
        """
        arrays: Mapping[str, np.ndarray] = {"x": x, **cond}
        inputs = [
            self._tensor(arrays[self._names[name]], example)
            for name, example in zip(self._energy.inputs, self._energy.example, strict=True)
        ]
        refined = inputs[self._energy.position].requires_grad_()
        scale = torch.ones(len(x), dtype=self._dtype) if grad_scale is None else torch.tensor(grad_scale)
        with torch.enable_grad(), self._precision():
            energy = self._energy.reduce(self._module(*inputs))
            (grad,) = torch.autograd.grad((energy * scale).sum(), refined)
        grad = grad / scale.reshape(-1, *[1] * (x.ndim - 1))
        return energy.detach().to(self._dtype).numpy(), grad.to(self._dtype).numpy()

    def _precision(self) -> AbstractContextManager[Any]:
        if self._products is None:
            return FullPrecision(self._dtype)
        return torch.autocast("cpu", dtype=self._products)

    def _tensor(self, array: np.ndarray, example: torch.Tensor) -> torch.Tensor:
        """Whole numbers have the type that the user's model is given: those of the graph are wider and do not wrap."""
        return torch.tensor(array).to(self._dtype if example.is_floating_point() else example.dtype)
