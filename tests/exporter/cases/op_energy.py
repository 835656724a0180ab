"""Makes an energy of one operation: the operation, then a fixed nonlinear readout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import Case, draw

__all__ = ["OpEnergy", "module_case", "op_case", "randomise", "readout_energy", "rounded", "seeded"]


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> Callable[[], nn.Module]:
    """Wraps a constructor so that it gives the same weights each time, in eval mode, and leaves torch's seed alone."""

    def build_seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build().eval()

    return build_seeded


def randomise(module: nn.Module) -> nn.Module:
    """Moves weights and running statistics away from their initial values, where a norm's scale of 1 hides mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return module


def rounded(x: torch.Tensor) -> torch.Tensor:
    """round(x) with the gradient of the identity: numbers that are exactly zero or exactly equal, yet pass a gradient.

    Exact in floating point, since round(x) - x is (Sterbenz). A relu makes zeros and ties as well, but its own gradient
    is zero there, which hides whatever the operation behind it does.
    """
    return x + (torch.round(x) - x).detach()


def as_rows(h: torch.Tensor) -> torch.Tensor:
    """Flattens [B, ...] to [B, F], and [B] to [B, 1]."""
    return h.unsqueeze(1) if h.dim() == 1 else h.flatten(1)


class OpEnergy(nn.Module):
    """E(x) = sum_i a_i tanh(h_i) + b_i h_i^2 / 2 with h = op(x, *constants), a and b fixed and of both signs.

    The readout gives every element of h its own cotangent, and one that depends on h: a gradient that is permuted,
    scaled or constant where it should not be is then wrong by a lot.
    """

    def __init__(
        self, op: Callable[..., torch.Tensor], features: int, constants: tuple[torch.Tensor, ...] = ()
    ) -> None:
        super().__init__()
        self.op = op
        self.constants = len(constants)
        for index, constant in enumerate(constants):
            self.register_buffer(f"constant{index}", constant)
        self.register_buffer("linear", torch.randn(features) / math.sqrt(features))
        self.register_buffer("square", torch.randn(features) / math.sqrt(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = as_rows(self.op(x, *(getattr(self, f"constant{index}") for index in range(self.constants))))
        return torch.tanh(h) @ self.linear + 0.5 * h.square() @ self.square


def readout_energy(
    op: Callable[..., torch.Tensor], x: torch.Tensor, constants: tuple[torch.Tensor, ...] = ()
) -> OpEnergy:
    """Builds the energy of an operation; one call on x [B, *S] tells how many features it gives."""
    if isinstance(op, nn.Module):
        op.eval()
    with torch.no_grad():
        features = as_rows(op(x.clone(), *constants)).shape[1]
    return OpEnergy(op, features, constants)


def op_case(op: Callable[..., torch.Tensor], x: tuple[int, ...], *constants: tuple[int, ...], **options: Any) -> Case:
    """Makes a case of a function.

    Args:
        op: Function (x [B, *S], *constants) -> [B, ...].
        x: Shape S of x.
        constants: Shapes of the other arguments: fixed, normal, buffers of the module.
        options: Further fields of ``Case``.
    """
    sample = draw(Case(nn.Identity, x, **options), seed=0, batch=2)["x"]

    def build() -> nn.Module:
        return readout_energy(op, torch.tensor(sample), tuple(torch.randn(shape) for shape in constants))

    return Case(seeded(build), x, **options)


def module_case(make: Callable[[], nn.Module], x: tuple[int, ...], **options: Any) -> Case:
    """Makes a case of a module [B, *S] -> [B, ...], its weights and running statistics randomised."""
    sample = draw(Case(nn.Identity, x, **options), seed=0, batch=2)["x"]

    def build() -> nn.Module:
        return readout_energy(randomise(make()).eval(), torch.tensor(sample))

    return Case(seeded(build), x, **options)
