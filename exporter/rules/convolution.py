"""Input gradients of convolutions, as convolutions.

With y[o] = sum_k w[k] x[o s + k d - p] the input gradient is gx[i] = sum_{o, k : o s + k d - p = i} w[k] g[o].
For stride 1 that is a convolution of g with the flipped kernel. For stride s the positions i = s q + r fall into s
phases r, each a stride-1 convolution over g with the taps k for which k d = r + p modulo s: one convolution computes
all phases as channels, and a depth-to-space interleaves them. Transposed convolutions are the same map, so they go
through the same function. Nothing here multiplies by the zeros that a zero-stuffed gradient would have, and no engine
needs a ConvTranspose, which some of them get wrong.

Holds for any rank, stride, padding, dilation and groups. See Dumoulin and Visin, "A guide to convolution arithmetic for
deep learning" (arXiv:1603.07285), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..spatial import per_axis
from .constant import constant
from .interleave import interleave

__all__ = ["RULES", "input_gradient"]

aten = torch.ops.aten


def input_gradient(
    grad: torch.Tensor,
    weight: torch.Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """Gradient of a convolution with respect to its input.

    Args:
        grad: gradient at the output [B, O, *out].
        weight: kernel [O, C / groups, *kernel].
        size: spatial size of the input.
        stride: one for each spatial axis, as are `padding` and `dilation`.
        padding: zeros before and after.
        dilation: distance of taps.
        groups: number of groups.

    Returns:
        gx [B, C, *size].
    """
    rank = len(size)
    kernel = weight.shape[2:]
    one_place = groups == 1 and all(n == 1 for n in (*grad.shape[2:], *dilation)) and math.prod(kernel) > 1
    if one_place and all(p < k for p, k in zip(padding, kernel, strict=True)):
        return _of_one_place(grad, weight, size, padding)
    # [O, C/g, *k] -> [g, O/g, C/g, *k] -> [C, O/g, *k]: the two channel dimensions change places inside each group.
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
    swapped = grouped.reshape(groups * weight.shape[1], weight.shape[0] // groups, *kernel)
    if all(s == 1 for s in stride):
        pads = [d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True)]
        flipped = swapped.flip(tuple(range(2, 2 + rank)))
        # Output padding of a transposed convolution asks for places past those that the kernel reaches from g.
        more = [
            n - (g + d * (k - 1) - 2 * p)
            for n, g, k, p, d in zip(size, grad.shape[2:], kernel, padding, dilation, strict=True)
        ]
        if any(more) or any(n < 0 for n in pads):  # a forward padding wider than the kernel reaches cuts g
            grad = F.pad(
                grad,
                [m for n, e in zip(reversed(pads), reversed(more), strict=True) for m in (min(n, 0), min(n, 0) + e)],
            )
        return _convolve(grad, flipped, [max(n, 0) for n in pads], dilation, groups)

    taps, befores, lengths = [], [], []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        table, first = _phase_taps(k, s, p, d)
        taps.append(table)
        befores.append(-first)
        lengths.append(-(-n // s))
    phased = _phase_kernel(swapped, taps)
    spans = [len(table[0]) for table in taps]
    pads = []
    for axis in reversed(range(rank)):
        # position q reads g[q + first .. q + first + span - 1]
        before = befores[axis]
        pads += [before, lengths[axis] - 1 + spans[axis] - 1 - before - (grad.shape[2 + axis] - 1)]
    grad = F.pad(grad, pads)
    out = _convolve(grad, phased, [0] * rank, [1] * rank, groups)
    full = interleave(out, stride)
    for axis, n in enumerate(size):
        if full.shape[2 + axis] != n:
            full = full.narrow(2 + axis, 0, n)
    return full


def _of_one_place(
    grad: torch.Tensor, weight: torch.Tensor, size: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    """The gradient where the kernel lay in one place only, such as that of a last layer that sees the whole image.

    gx[i] = w[i + p] g is a product with the kernel as a matrix. As a convolution it would be one over an image of one pixel and
    wide borders of zeros: 16 times the work for a 4 x 4 kernel.
    """
    for axis, (n, p) in enumerate(zip(size, padding, strict=True)):
        weight = weight.narrow(2 + axis, p, min(n, weight.shape[2 + axis] - p))
    missing = [n - k for n, k in zip(size, weight.shape[2:], strict=True)]
    if any(missing):  # the kernel ends before the input does
        weight = F.pad(weight, [n for count in reversed(missing) for n in (0, count)])
    product = grad.reshape(grad.shape[0], weight.shape[0]) @ weight.reshape(weight.shape[0], -1)
    return product.reshape(grad.shape[0], weight.shape[1], *size)


def _convolve(
    x: torch.Tensor, weight: torch.Tensor, padding: Sequence[int], dilation: Sequence[int], groups: int
) -> torch.Tensor:
    rank = x.dim() - 2
    ones = [1] * rank
    return aten.convolution.default(  # type: ignore[no-any-return]
        x, weight, None, ones, list(padding), list(dilation), False, [0] * rank, groups
    )


def _phase_taps(kernel: int, stride: int, padding: int, dilation: int) -> tuple[list[list[int]], int]:
    """For each phase r the tap read at each offset m of g; `kernel` stands for none.

    Returns:
        The table [stride][span], and the smallest offset m, so that column j belongs to offset m + j.
    """
    found = {
        (r, (r + padding - k * dilation) // stride): k
        for r in range(stride)
        for k in range(kernel)
        if (r + padding - k * dilation) % stride == 0
    }
    offsets = [m for _, m in found] or [0]
    first, last = min(offsets), max(offsets)
    return [[found.get((r, m), kernel) for m in range(first, last + 1)] for r in range(stride)], first


def _phase_kernel(weight: torch.Tensor, taps: list[list[list[int]]]) -> torch.Tensor:
    """[C, O/g, *kernel] -> [C * prod(strides), O/g, *spans]; a missing tap is zero."""
    rank = len(taps)
    weight = F.pad(weight, [n for _ in range(rank) for n in (0, 1)])  # the last tap on each axis is the zero
    for axis, table in enumerate(taps):
        flat = [k for row in table for k in row]
        weight = weight.index_select(2 + axis, constant(lambda flat=flat: torch.tensor(flat)))  # type: ignore[misc]
    split: list[int] = []
    for table in taps:
        split += [len(table), len(table[0])]
    weight = weight.reshape(weight.shape[0], weight.shape[1], *split)
    phases = [2 + 2 * axis for axis in range(rank)]
    spans = [3 + 2 * axis for axis in range(rank)]
    weight = weight.permute(0, *phases, 1, *spans)
    count = math.prod(len(table) for table in taps)
    return weight.reshape(weight.shape[0] * count, weight.shape[1 + rank], *weight.shape[2 + rank :])


def _convolution_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """Gradients at input [B, C, *in] and bias; a weight that depends on x is left to the table's end."""
    if output_mask[1]:
        return NotImplemented
    rank = x.dim() - 2
    stride, padding, dilation = (per_axis(numbers, rank) for numbers in (stride, padding, dilation))
    at_input = None
    if output_mask[0] and transposed:  # the transpose of a transpose
        at_input = aten.convolution.default(grad, weight, None, stride, padding, dilation, False, [0] * rank, groups)
        # Places that output padding adds have room for more windows where the kernel's dilation allows more of them
        # than the stride.
        for axis, n in enumerate(x.shape[2:]):
            if at_input.shape[2 + axis] != n:
                at_input = at_input.narrow(2 + axis, 0, n)
    elif output_mask[0]:
        at_input = input_gradient(grad, weight, x.shape[2:], stride, padding, dilation, groups)
    at_bias = grad.sum([0, *range(2, grad.dim())]) if output_mask[2] else None
    return at_input, None, at_bias


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """A transposed convolution [B, C, *in] -> [B, O, *out], weight [C, O / groups, *kernel]."""
    rank = weight.dim() - 2
    if x.dim() == rank + 1:  # no batch dimension
        arguments = (weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        return aten.convolution.default(x.unsqueeze(0), *arguments).squeeze(0)
    if not transposed:
        return NotImplemented
    stride, padding, dilation = (per_axis(numbers, rank) for numbers in (stride, padding, dilation))
    extra = per_axis(output_padding, rank)
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, extra, strict=True)
    ]
    out = input_gradient(x, weight, size, stride, padding, dilation, groups)
    return out if bias is None else out + bias.reshape(-1, *[1] * rank)


def _traced_convolution(*arguments: Any) -> Any:
    """What torch.jit.trace writes: a convolution with flags of cuDNN behind its groups."""
    return aten.convolution.default(*arguments[:9])


RULES = {
    aten._convolution.default: _traced_convolution,
    aten._convolution.deprecated: _traced_convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.convolution.default: _convolution,
}
