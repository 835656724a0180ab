"""Max pools and their gradients, without indices: no engine shares PyTorch's, and scattering is slow everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..spatial import per_axis
from .constant import constant
from .first_maximum import pool_indices
from .interleave import interleave
from .pool_batch import add_batch
from .tournament import hand_back, play

__all__ = ["RULES"]

aten = torch.ops.aten


def _taps(
    x: torch.Tensor, out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[torch.Tensor]:
    """[B, C, *n] -> prod(kernel) times [B, C, *out]: what each window sees, taps in row-major order."""
    slices = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        part = x
        for axis, (k, o, s, d) in enumerate(zip(tap, out, stride, dilation, strict=True)):
            part = aten.slice.Tensor(part, 2 + axis, k * d, k * d + (o - 1) * s + 1, s)
        slices.append(part)
    return slices


def _place_taps(
    parts: Sequence[torch.Tensor],
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """Adjoint of `_taps`: adds prod(kernel) times [B, C, *out] back into [B, C, *size]."""
    rank = len(size)
    out = parts[0].shape[2:]
    lengths = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    phases: dict[tuple[int, ...], torch.Tensor] = {}
    for index, tap in enumerate(itertools.product(*(range(k) for k in kernel))):
        starts = [k * d for k, d in zip(tap, dilation, strict=True)]
        phase = tuple(start % s for start, s in zip(starts, stride, strict=True))
        pads: list[int] = []
        for axis in reversed(range(rank)):
            before = starts[axis] // stride[axis]
            pads += [before, lengths[axis] - before - out[axis]]
        placed = F.pad(parts[index], pads)
        phases[phase] = phases[phase] + placed if phase in phases else placed
    zero = torch.zeros_like(next(iter(phases.values())))
    ordered = [phases.get(phase, zero) for phase in itertools.product(*(range(s) for s in stride))]
    stacked = torch.stack(ordered, 2)
    full = interleave(stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:]), stride)
    for axis, n in enumerate(size):
        full = full.narrow(2 + axis, 0, n)
    return full


def _covered(
    x: torch.Tensor, out: Sequence[int], k: Sequence[int], s: Sequence[int], p: Sequence[int], d: Sequence[int]
) -> tuple[torch.Tensor, list[int]]:
    """x with -inf around it, as far as the windows reach, and the padded size [*n]."""
    rank = len(out)
    # What the windows cover; where ceil_mode leaves a margin of x uncovered, what there is of x is the larger.
    sizes = [max((out[i] - 1) * s[i] + d[i] * (k[i] - 1) + 1, x.shape[2 + i] + p[i]) for i in range(rank)]
    pads: list[int] = []
    for axis in reversed(range(rank)):
        pads += [p[axis], sizes[axis] - p[axis] - x.shape[2 + axis]]
    return F.pad(x, pads, value=-torch.inf) if any(pads) else x, sizes


def _max_pool(rank: int) -> Any:
    pool = {2: aten.max_pool2d_with_indices.default, 3: aten.max_pool3d_with_indices.default}[rank]

    def rule(
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Any:
        """A dilated max pool [B, C, *n] as the largest tap of its windows: TensorRT pools without dilation only."""
        if all(d == 1 for d in dilation):
            return NotImplemented
        k = per_axis(kernel, rank)
        s, p, d = per_axis(stride, rank, k), per_axis(padding, rank), per_axis(dilation, rank)
        out = list(
            constant(lambda: torch.zeros_like(pool(torch.zeros(1, 1, *x.shape[2:]), k, s, p, d, ceil_mode)[0])).shape[
                2:
            ]
        )
        padded, _ = _covered(x, out, k, s, p, d)
        maximum = torch.stack(_taps(padded, out, k, s, d), 2).amax(2)
        return maximum, pool_indices(maximum)

    return add_batch(rule, rank)


def _max_pool_backward(rank: int) -> Any:
    def rule(
        grad: torch.Tensor,
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
        indices: torch.Tensor,
    ) -> torch.Tensor:
        """Gradient [B, C, *n] of a max pool at the first maxima [B, C, *out], which are found without the pool's result."""
        k = per_axis(kernel, rank)
        s, p, d = per_axis(stride, rank, k), per_axis(padding, rank), per_axis(dilation, rank)
        out = grad.shape[2:]
        padded, sizes = _covered(x, out, k, s, p, d)
        _, rounds = play(_taps(padded, out, k, s, d))
        full = _place_taps(hand_back(grad, rounds), sizes, k, s, d)
        for axis in range(rank):
            full = full.narrow(2 + axis, p[axis], x.shape[2 + axis])
        return full

    return add_batch(rule, rank)


RULES = {
    aten.max_pool2d_with_indices.default: _max_pool(2),
    aten.max_pool3d_with_indices.default: _max_pool(3),
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward(2),
    aten.max_pool3d_with_indices_backward.default: _max_pool_backward(3),
}
