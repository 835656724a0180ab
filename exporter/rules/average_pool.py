"""Average pools and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..spatial import per_axis
from .constant import constant
from .convolution import input_gradient
from .pool_batch import add_batch
from .repeat_each import repeat_each

__all__ = ["RULES"]

aten = torch.ops.aten


def _avg_geometry(
    x_size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> tuple[list[int], list[int], list[int], list[int], torch.Tensor]:
    """Kernel, stride, padding, output size, and the number [*out] that each window's sum is divided by."""
    rank = len(x_size)
    k = per_axis(kernel, rank)
    s, p = per_axis(stride, rank, k), per_axis(padding, rank)
    pool = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}[rank]

    def divisor() -> torch.Tensor:
        ones = torch.ones(1, 1, *x_size, dtype=torch.float64)
        sums = pool(ones, k, s, p, ceil_mode, True, 1)
        means = pool(ones, k, s, p, ceil_mode, count_include_pad, divisor_override)
        return (sums / means)[0, 0].float()

    out = constant(divisor)
    return k, s, p, list(out.shape), out


def _avg_pool(rank: int) -> Any:
    pool = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}[rank]

    def rule(
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        """An average pool of zero-padded windows, rescaled where PyTorch divides by another number."""
        plain = not ceil_mode and divisor_override is None and (count_include_pad or not any(padding))
        if plain and not any(padding):
            return NotImplemented
        k, s, p, out, divisor = _avg_geometry(
            x.shape[2:], kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        pads: list[int] = []
        for axis in reversed(range(rank)):
            covered = (out[axis] - 1) * s[axis] + k[axis]
            pads += [p[axis], covered - p[axis] - x.shape[2 + axis]]
        means = pool(F.pad(x, pads), k, s)
        return means if plain else means * (math.prod(k) / divisor)

    return add_batch(rule, rank)


def _avg_pool_backward(rank: int) -> Any:
    def rule(
        grad: torch.Tensor,
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> torch.Tensor:
        """Spreads each mean's gradient over its window: a convolution's input gradient with a kernel of ones."""
        size = x.shape[2:]
        k, s, p, out, divisor = _avg_geometry(
            size, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        even = bool(constant(lambda: (divisor == divisor.reshape(-1)[0]).all()))
        value = float(constant(lambda: divisor.reshape(-1)[0]))
        share = grad / value if even else grad / divisor
        channels = x.shape[1]
        if k == s and not any(p) and all(o * n == m for o, n, m in zip(out, k, size, strict=True)):
            return repeat_each(share, k)
        ones = constant(lambda: torch.ones(channels, 1, *k))
        # ceil_mode lets windows hang over the end: the gradient of what they miss is cut off.
        covered = [max((o - 1) * s_ + k_ - p_, n) for o, s_, k_, p_, n in zip(out, s, k, p, size, strict=True)]
        full = input_gradient(share, ones, covered, s, p, [1] * rank, channels)
        for axis, n in enumerate(size):
            full = full.narrow(2 + axis, 0, n)
        return full

    return add_batch(rule, rank)


RULES = {
    aten.avg_pool2d.default: _avg_pool(2),
    aten.avg_pool3d.default: _avg_pool(3),
    aten.avg_pool2d_backward.default: _avg_pool_backward(2),
    aten.avg_pool3d_backward.default: _avg_pool_backward(3),
}
