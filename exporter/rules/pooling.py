"""Pools and their gradients, without indices: no engine shares PyTorch's, and scattering is slow everywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .constant import constant
from .convolution import input_gradient
from .interleave import interleave
from .linear_map import along

__all__ = ["RULES"]

aten = torch.ops.aten


@torch.library.custom_op("ebm_export::pool_indices", mutates_args=())
def pool_indices(maximum: torch.Tensor) -> torch.Tensor:
    """Stands for the indices of a pool: only the gradient's rule, which needs none, may come after it.

    It has no lowering, so a model that reads the indices itself ends with an error instead of wrong numbers.
    """
    return torch.zeros_like(maximum, dtype=torch.int64)


def _per_axis(numbers: Sequence[int], rank: int, default: Sequence[int] = ()) -> list[int]:
    numbers = [int(n) for n in numbers] or list(default)
    return numbers * (rank if len(numbers) == 1 else 1)


def _add_batch(rule: Any, rank: int) -> Any:
    """A rule for [C, *n], which PyTorch allows, from one for [B, C, *n]."""

    def with_batch(*arguments: Any, **options: Any) -> Any:
        first = arguments[0]
        if first.dim() == rank + 2:
            return rule(*arguments, **options)
        lifted = [a.unsqueeze(0) if isinstance(a, torch.Tensor) and a.dim() == rank + 1 else a for a in arguments]
        result = rule(*lifted, **options)
        if isinstance(result, tuple):
            return tuple(part.squeeze(0) for part in result)
        return result if result is NotImplemented else result.squeeze(0)

    return with_batch


# Max pools.


def _windows(
    x: torch.Tensor, out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    """[B, C, *n] -> [B, C, prod(kernel), *out]: what each window sees, taps in row-major order."""
    slices = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        part = x
        for axis, (k, o, s, d) in enumerate(zip(tap, out, stride, dilation, strict=True)):
            part = aten.slice.Tensor(part, 2 + axis, k * d, k * d + (o - 1) * s + 1, s)
        slices.append(part)
    return torch.stack(slices, 2)


def _place_windows(
    parts: torch.Tensor, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    """Adjoint of `_windows`: adds [B, C, prod(kernel), *out] back into [B, C, *size]."""
    rank = len(size)
    out = parts.shape[3:]
    lengths = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    phases: dict[tuple[int, ...], torch.Tensor] = {}
    for index, tap in enumerate(itertools.product(*(range(k) for k in kernel))):
        starts = [k * d for k, d in zip(tap, dilation, strict=True)]
        phase = tuple(start % s for start, s in zip(starts, stride, strict=True))
        pads: list[int] = []
        for axis in reversed(range(rank)):
            before = starts[axis] // stride[axis]
            pads += [before, lengths[axis] - before - out[axis]]
        placed = F.pad(parts[:, :, index], pads)
        phases[phase] = phases[phase] + placed if phase in phases else placed
    zero = torch.zeros_like(next(iter(phases.values())))
    ordered = [phases.get(phase, zero) for phase in itertools.product(*(range(s) for s in stride))]
    stacked = torch.stack(ordered, 2)
    full = interleave(stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:]), stride)
    for axis, n in enumerate(size):
        full = full.narrow(2 + axis, 0, n)
    return full


def _first_maximum(windows: torch.Tensor, maximum: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Gives the gradient [B, C, *out] to the first largest tap of each window [B, C, K, *out], as PyTorch does.

    Equal taps (zeros after a relu) get falling priorities, so that one tap wins whatever an engine's argmax does.
    """
    count = windows.shape[2]
    priority = constant(lambda: torch.arange(count, 0, -1, dtype=torch.float32))
    rank = windows.dim() - 3
    ranked = torch.where(windows == maximum.unsqueeze(2), priority.reshape(count, *[1] * rank), 0.0)
    wins = ranked == ranked.amax(2, keepdim=True)
    return torch.where(wins, grad.unsqueeze(2), 0.0)


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
        k = _per_axis(kernel, rank)
        s, p, d = _per_axis(stride, rank, k), _per_axis(padding, rank), _per_axis(dilation, rank)
        out = list(
            constant(lambda: torch.zeros_like(pool(torch.zeros(1, 1, *x.shape[2:]), k, s, p, d, ceil_mode)[0])).shape[
                2:
            ]
        )
        padded, _ = _covered(x, out, k, s, p, d)
        maximum = _windows(padded, out, k, s, d).amax(2)
        return maximum, pool_indices(maximum)

    return _add_batch(rule, rank)


def _max_pool_backward(rank: int) -> Any:
    pool = {2: aten.max_pool2d_with_indices.default, 3: aten.max_pool3d_with_indices.default}[rank]

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
        """Gradient [B, C, *n] of a max pool at the maxima [B, C, *out]."""
        # Computed again: merged with the forward's own node.
        maximum = pool(x, kernel, stride, padding, dilation, ceil_mode)[0]
        k = _per_axis(kernel, rank)
        s, p, d = _per_axis(stride, rank, k), _per_axis(padding, rank), _per_axis(dilation, rank)
        out = grad.shape[2:]
        padded, sizes = _covered(x, out, k, s, p, d)
        parts = _first_maximum(_windows(padded, out, k, s, d), maximum, grad)
        full = _place_windows(parts, sizes, k, s, d)
        for axis in range(rank):
            full = full.narrow(2 + axis, p[axis], x.shape[2 + axis])
        return full

    return _add_batch(rule, rank)


# Average pools.


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
    k = _per_axis(kernel, rank)
    s, p = _per_axis(stride, rank, k), _per_axis(padding, rank)
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

    return _add_batch(rule, rank)


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
            return _repeat_each(share, k)
        ones = constant(lambda: torch.ones(channels, 1, *k))
        # ceil_mode lets windows hang over the end: the gradient of what they miss is cut off.
        covered = [max((o - 1) * s_ + k_ - p_, n) for o, s_, k_, p_, n in zip(out, s, k, p, size, strict=True)]
        full = input_gradient(share, ones, covered, s, p, [1] * rank, channels)
        for axis, n in enumerate(size):
            full = full.narrow(2 + axis, 0, n)
        return full

    return _add_batch(rule, rank)


def _repeat_each(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """[B, C, *n] -> [B, C, *(n * factors)], every element repeated in place."""
    rank = len(factors)
    if rank == 2 and factors[0] == factors[1]:
        size = [n * f for n, f in zip(x.shape[2:], factors, strict=True)]
        return aten.upsample_nearest2d.default(x, size)  # type: ignore[no-any-return]
    wide, target = list(x.shape[:2]), list(x.shape[:2])
    for n, f in zip(x.shape[2:], factors, strict=True):
        wide += [n, 1]
        target += [n, f]
    spread = x.reshape(wide).expand(target)
    return spread.reshape(*x.shape[:2], *(n * f for n, f in zip(x.shape[2:], factors, strict=True)))


# Adaptive pools.


def _bounds(n: int, out: int) -> list[tuple[int, int]]:
    """Window [start, end) of each output, as PyTorch defines adaptive pools."""
    return [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


def _mean_matrix(n: int, out: int) -> torch.Tensor:
    """[out, n] matrix of an adaptive average pool along one axis."""
    matrix = torch.zeros(out, n, dtype=torch.float64)
    for row, (start, end) in enumerate(_bounds(n, out)):
        matrix[row, start:end] = 1 / (end - start)
    return matrix.float()


def _adaptive_avg(rank: int) -> Any:
    pool = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}[rank]

    def rule(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """[B, C, *n] -> [B, C, *size]: a mean, an ordinary pool, or a matrix along each axis."""
        n = x.shape[2:]
        if all(o == 1 for o in size):
            return x.mean(list(range(2, 2 + rank)), keepdim=True)
        if all(a % o == 0 for a, o in zip(n, size, strict=True)):
            k = [a // o for a, o in zip(n, size, strict=True)]
            return pool(x, k, k)  # type: ignore[no-any-return]
        for axis, (a, o) in enumerate(zip(n, size, strict=True)):
            if a != o:
                x = along(x, 2 + axis, constant(lambda a=a, o=o: _mean_matrix(a, o)))  # type: ignore[misc]
        return x

    return _add_batch(rule, rank)


def _adaptive_avg_backward(rank: int) -> Any:
    def rule(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """[B, C, *size] -> [B, C, *n]: the transposed matrices."""
        n, size = x.shape[2:], grad.shape[2:]
        if all(a % o == 0 for a, o in zip(n, size, strict=True)):
            k = [a // o for a, o in zip(n, size, strict=True)]
            share = grad / math.prod(k)
            return share.expand(x.shape) if all(o == 1 for o in size) else _repeat_each(share, k)
        for axis, (a, o) in enumerate(zip(n, size, strict=True)):
            if a != o:
                grad = along(grad, 2 + axis, constant(lambda a=a, o=o: _mean_matrix(a, o).t().contiguous()))  # type: ignore[misc]
        return grad

    return _add_batch(rule, rank)


def _adaptive_windows(x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, list[list[int]]]:
    """[B, C, *n] -> [B, C, K, *size]; a window shorter than the longest repeats its last element."""
    places: list[list[int]] = []
    longest: list[int] = []
    for n, o in zip(x.shape[2:], size, strict=True):
        bounds = _bounds(n, o)
        most = max(end - start for start, end in bounds)
        longest.append(most)
        places.append([min(start + j, end - 1) for j in range(most) for start, end in bounds])
    for axis, flat in enumerate(places):
        x = x.index_select(2 + axis, constant(lambda flat=flat: torch.tensor(flat)))  # type: ignore[misc]
    split: list[int] = []
    for most, o in zip(longest, size, strict=True):
        split += [most, o]
    rank = len(size)
    spread = x.reshape(*x.shape[:2], *split)
    order = [0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    return spread.permute(order).reshape(*x.shape[:2], math.prod(longest), *size), places


def _adaptive_max(rank: int) -> Any:
    def rule(x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The maxima [B, C, *size], and a stand-in for their indices."""
        windows, _ = _adaptive_windows(x, size)
        maximum = windows.amax(2)
        return maximum, pool_indices(maximum)

    return _add_batch(rule, rank)


def _reads(places: list[int], n: int) -> torch.Tensor:
    """[n, len(places)] 0/1 matrix: which of n elements each place reads."""
    return constant(lambda: F.one_hot(torch.tensor(places), n).t().float().contiguous())


def _adaptive_max_backward(rank: int) -> Any:
    def rule(grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        size = grad.shape[2:]
        windows, places = _adaptive_windows(x, size)
        parts = _first_maximum(windows, windows.amax(2), grad)
        longest = [len(flat) // o for flat, o in zip(places, size, strict=True)]
        spread = parts.reshape(*parts.shape[:2], *longest, *size)
        order = [0, 1]
        for axis in range(rank):
            order += [2 + axis, 2 + rank + axis]
        flat_size = [k * o for k, o in zip(longest, size, strict=True)]
        placed = spread.permute(order).reshape(*parts.shape[:2], *flat_size)
        for axis, (flat, n) in enumerate(zip(places, x.shape[2:], strict=True)):
            placed = along(placed, 2 + axis, _reads(flat, n))
        return placed

    return _add_batch(rule, rank)


RULES = {
    aten.max_pool2d_with_indices.default: _max_pool(2),
    aten.max_pool3d_with_indices.default: _max_pool(3),
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward(2),
    aten.max_pool3d_with_indices_backward.default: _max_pool_backward(3),
    aten.avg_pool2d.default: _avg_pool(2),
    aten.avg_pool3d.default: _avg_pool(3),
    aten.avg_pool2d_backward.default: _avg_pool_backward(2),
    aten.avg_pool3d_backward.default: _avg_pool_backward(3),
    aten._adaptive_avg_pool2d.default: _adaptive_avg(2),
    aten._adaptive_avg_pool3d.default: _adaptive_avg(3),
    aten._adaptive_avg_pool2d_backward.default: _adaptive_avg_backward(2),
    aten._adaptive_avg_pool3d_backward.default: _adaptive_avg_backward(3),
    aten.adaptive_max_pool2d.default: _adaptive_max(2),
    aten.adaptive_max_pool3d.default: _adaptive_max(3),
    aten.adaptive_max_pool2d_backward.default: _adaptive_max_backward(2),
    aten.adaptive_max_pool3d_backward.default: _adaptive_max_backward(3),
}
