"""Pools: overlapping, padded, with rests, with ties."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from . import Case
from .op_energy import module_case, op_case, rounded

__all__ = ["CASES"]

LINE = (3, 9)
IMAGE = (3, 7, 8)
VOLUME = (2, 5, 4, 6)


def global_average(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x.sin(), x.shape[-2:]).flatten(1)


def unpool(x: torch.Tensor) -> torch.Tensor:
    """Max pool and its partial inverse."""
    value, index = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(value.sin(), index, 2, output_size=x.shape[-2:])


def peaks(x: torch.Tensor) -> torch.Tensor:
    """Keeps what is the maximum of its neighbourhood."""
    return x * (F.max_pool2d(x, 3, 1, 1) == x).to(x.dtype) + 0.1 * x.square()


CASES: dict[str, Case] = {
    # maximum
    "max_pool1d": module_case(lambda: nn.MaxPool1d(3), LINE),
    "max_pool1d_overlapping": module_case(lambda: nn.MaxPool1d(3, stride=2, padding=1), LINE),
    "max_pool1d_dilation": module_case(lambda: nn.MaxPool1d(3, stride=1, dilation=2), LINE),
    "max_pool1d_ceil": module_case(lambda: nn.MaxPool1d(4, stride=3, ceil_mode=True), LINE),
    "max_pool2d": module_case(lambda: nn.MaxPool2d(2), (3, 6, 8)),
    "max_pool2d_rest": module_case(lambda: nn.MaxPool2d(2), (3, 7, 9)),
    "max_pool2d_overlapping": module_case(lambda: nn.MaxPool2d(3, stride=2, padding=1), IMAGE),
    "max_pool2d_stride1": module_case(lambda: nn.MaxPool2d(3, stride=1), IMAGE),
    "max_pool2d_asymmetric": module_case(lambda: nn.MaxPool2d((2, 3), stride=(3, 1), padding=(1, 0)), IMAGE),
    "max_pool2d_kernel_below_stride": module_case(lambda: nn.MaxPool2d(2, stride=3), IMAGE),
    "max_pool2d_ceil": module_case(lambda: nn.MaxPool2d(2, ceil_mode=True), (3, 7, 9)),
    "max_pool2d_ceil_padding": module_case(lambda: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), IMAGE),
    "max_pool1d_ceil_padding": module_case(lambda: nn.MaxPool1d(2, padding=1, ceil_mode=True), LINE),
    "max_pool1d_ceil_kernel_below_stride": module_case(lambda: nn.MaxPool1d(1, stride=3, ceil_mode=True), (3, 8)),
    "max_pool2d_ceil_padding_rest": module_case(lambda: nn.MaxPool2d(2, padding=1, ceil_mode=True), (3, 7, 8)),
    "max_pool2d_ceil_kernel_below_stride": module_case(lambda: nn.MaxPool2d(3, stride=5, ceil_mode=True), (3, 10, 11)),
    "max_pool2d_ceil_asymmetric": module_case(
        lambda: nn.MaxPool2d((4, 2), stride=(1, 3), padding=(2, 1), ceil_mode=True), IMAGE
    ),
    "max_pool2d_dilation": module_case(lambda: nn.MaxPool2d(2, stride=2, dilation=(2, 3)), IMAGE),
    "max_pool2d_all_negative_padding": op_case(lambda x: F.max_pool2d(-x.abs() - 1, 3, 2, 1), IMAGE),
    "max_pool2d_ties": op_case(lambda x: F.max_pool2d(F.relu(x - 0.8), 2).sin() + x[:, :, :1, :1], (3, 6, 8)),
    "max_pool2d_ties_overlapping": op_case(lambda x, w: F.max_pool2d(F.relu(x - 0.3) * w, 3, 2, 1), IMAGE, (3, 1, 1)),
    "max_pool2d_ties_rounded": op_case(lambda x: F.max_pool2d(rounded(x), 2), (3, 6, 8)),
    "max_pool2d_ties_rounded_overlapping": op_case(lambda x: F.max_pool2d(rounded(x), 3, 2, 1), IMAGE),
    "adaptive_max_pool2d_ties": op_case(lambda x: F.adaptive_max_pool2d(rounded(x), (3, 5)), IMAGE),
    "max_pool2d_peaks": op_case(peaks, IMAGE, spread=True),
    "max_pool2d_indices_unused": op_case(lambda x: F.max_pool2d(x, 2, return_indices=True)[0], (3, 6, 8)),
    "max_pool3d": module_case(lambda: nn.MaxPool3d(2), VOLUME),
    "max_pool3d_overlapping": module_case(lambda: nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), VOLUME),
    "max_pool3d_ceil": module_case(
        lambda: nn.MaxPool3d((2, 1, 3), stride=(3, 2, 4), padding=(1, 0, 1), ceil_mode=True), (2, 4, 5, 7)
    ),
    "max_unpool2d": op_case(unpool, (3, 7, 9)),
    "min_pool2d": op_case(lambda x: -F.max_pool2d(-x, 3, 2), IMAGE),
    # average
    "avg_pool1d": module_case(lambda: nn.AvgPool1d(3), LINE),
    "avg_pool1d_overlapping": module_case(lambda: nn.AvgPool1d(3, stride=2, padding=1), LINE),
    "avg_pool1d_ceil": module_case(lambda: nn.AvgPool1d(4, stride=3, padding=1, ceil_mode=True), LINE),
    "avg_pool2d": module_case(lambda: nn.AvgPool2d(2), (3, 6, 8)),
    "avg_pool2d_rest": module_case(lambda: nn.AvgPool2d(2), (3, 7, 9)),
    "avg_pool2d_overlapping": module_case(lambda: nn.AvgPool2d(3, stride=2, padding=1), IMAGE),
    "avg_pool2d_stride1": module_case(lambda: nn.AvgPool2d(3, stride=1, padding=1), IMAGE),
    "avg_pool2d_exclude_pad": module_case(lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), IMAGE),
    "avg_pool1d_exclude_no_pad": module_case(lambda: nn.AvgPool1d(3, count_include_pad=False), LINE),
    "avg_pool2d_exclude_no_pad": module_case(lambda: nn.AvgPool2d(2, count_include_pad=False), IMAGE),
    "avg_pool2d_ceil": module_case(lambda: nn.AvgPool2d(2, ceil_mode=True), (3, 7, 9)),
    "avg_pool2d_ceil_padding": module_case(lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True), IMAGE),
    "avg_pool2d_ceil_exclude_pad": module_case(
        lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), IMAGE
    ),
    "avg_pool2d_ceil_kernel_below_stride": module_case(lambda: nn.AvgPool2d(3, stride=5, ceil_mode=True), (3, 10, 11)),
    "avg_pool2d_divisor": module_case(lambda: nn.AvgPool2d(3, 2, padding=1, divisor_override=5), IMAGE),
    "avg_pool2d_asymmetric": module_case(lambda: nn.AvgPool2d((2, 3), stride=(3, 1), padding=(1, 0)), IMAGE),
    "avg_pool2d_kernel_below_stride": module_case(lambda: nn.AvgPool2d(2, stride=3), IMAGE),
    "avg_pool2d_global": op_case(global_average, IMAGE),
    "avg_pool3d": module_case(lambda: nn.AvgPool3d(2), VOLUME),
    "avg_pool3d_exclude_no_pad": module_case(lambda: nn.AvgPool3d(2, count_include_pad=False), VOLUME),
    "avg_pool3d_options": module_case(
        lambda: nn.AvgPool3d((3, 2, 2), stride=(2, 1, 2), padding=(1, 1, 0), count_include_pad=False), VOLUME
    ),
    # p-norm
    "lp_pool1d": module_case(lambda: nn.LPPool1d(3, 2), LINE, positive=True),
    "lp_pool2d": module_case(lambda: nn.LPPool2d(2, 3, stride=2), IMAGE),
    "lp_pool2d_p1": module_case(lambda: nn.LPPool2d(1, (2, 3)), IMAGE, positive=True),
    "lp_pool2d_ceil": module_case(lambda: nn.LPPool2d(2, 2, ceil_mode=True), (3, 7, 7)),
    "lp_pool3d": module_case(lambda: nn.LPPool3d(2, 2), VOLUME),
    # adaptive
    "adaptive_avg_pool1d": module_case(lambda: nn.AdaptiveAvgPool1d(4), LINE),
    "adaptive_avg_pool2d_one": module_case(lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "adaptive_avg_pool2d_divides": module_case(lambda: nn.AdaptiveAvgPool2d((3, 2)), (3, 6, 8)),
    "adaptive_avg_pool2d_rest": module_case(lambda: nn.AdaptiveAvgPool2d((3, 5)), IMAGE),
    "adaptive_avg_pool2d_larger": module_case(lambda: nn.AdaptiveAvgPool2d((9, None)), IMAGE),
    "adaptive_avg_pool3d": module_case(lambda: nn.AdaptiveAvgPool3d((2, 3, 4)), VOLUME),
    "adaptive_avg_pool3d_one": module_case(lambda: nn.AdaptiveAvgPool3d(1), VOLUME),
    "adaptive_max_pool1d": module_case(lambda: nn.AdaptiveMaxPool1d(4), LINE),
    "adaptive_max_pool2d_one": module_case(lambda: nn.AdaptiveMaxPool2d(1), IMAGE),
    "adaptive_max_pool2d_divides": module_case(lambda: nn.AdaptiveMaxPool2d((3, 2)), (3, 6, 8)),
    "adaptive_max_pool2d_rest": module_case(lambda: nn.AdaptiveMaxPool2d((3, 5)), IMAGE),
    "adaptive_max_pool3d": module_case(lambda: nn.AdaptiveMaxPool3d((2, 3, 4)), VOLUME),
    # by hand
    "global_max_and_mean": op_case(lambda x: torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1), IMAGE),
    "average_by_reshape": op_case(lambda x: x.unflatten(3, (4, 2)).mean(4), IMAGE),
    "generalised_mean": op_case(
        lambda x: F.avg_pool2d(x.clamp(min=1e-3).pow(3), 2).pow(1 / 3), (3, 6, 8), positive=True
    ),
}
