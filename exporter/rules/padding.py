"""Gradients of the padding modes that repeat the border. The forward modes are ONNX's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["RULES"]

aten = torch.ops.aten


def _fold_back(
    grad: torch.Tensor, pads: Sequence[int], fold: Callable[[torch.Tensor, int, bool], torch.Tensor]
) -> torch.Tensor:
    """Adds the gradient of each border strip to the elements that it repeats.

    Args:
        grad: gradient at the padded tensor.
        pads: (before, after) for the last axis first, as `torch.nn.functional.pad`.
        fold: (strip along the last axis, size n of the axis, whether it comes before) -> what to add, size n.
    """
    for index in range(len(pads) // 2):
        before, after = pads[2 * index], pads[2 * index + 1]
        axis = grad.dim() - 1 - index
        moved = grad.movedim(axis, -1)
        total = moved.shape[-1]
        size = total - before - after
        inner = moved[..., max(before, 0) : total - max(after, 0)]
        if before < 0 or after < 0:  # a negative pad cut elements off: their gradient is zero
            inner = F.pad(inner, (max(-before, 0), max(-after, 0)))
        if before > 0:
            inner = inner + fold(moved[..., :before], size, True)
        if after > 0:
            inner = inner + fold(moved[..., total - after :], size, False)
        grad = inner.movedim(-1, axis)
    return grad


def _reflect(strip: torch.Tensor, size: int, before: bool) -> torch.Tensor:
    width = strip.shape[-1]
    rest = size - 1 - width
    return F.pad(strip.flip(-1), (1, rest) if before else (rest, 1))


def _replicate(strip: torch.Tensor, size: int, before: bool) -> torch.Tensor:
    total = strip.sum(-1, keepdim=True)
    return F.pad(total, (0, size - 1) if before else (size - 1, 0))


def _reflection(grad: torch.Tensor, x: torch.Tensor, pads: Sequence[int]) -> torch.Tensor:
    """Gradient of a reflection pad at its input."""
    return _fold_back(grad, pads, _reflect)


def _replication(grad: torch.Tensor, x: torch.Tensor, pads: Sequence[int]) -> torch.Tensor:
    """Gradient of a replication pad at its input."""
    return _fold_back(grad, pads, _replicate)


RULES: dict[Any, Any] = {
    getattr(aten, f"{name}_pad{rank}d_backward").default: rule
    for name, rule in (("reflection", _reflection), ("replication", _replication))
    for rank in (1, 2, 3)
}
