"""Changes of size and border: shuffles, interpolation, padding and cropping, patches."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from . import Case
from .op_energy import module_case, op_case

__all__ = ["CASES"]

LINE = (3, 7)
IMAGE = (3, 5, 6)
VOLUME = (2, 3, 4, 5)


def resize(mode: str, shape: tuple[int, ...], **options: object) -> Case:
    return op_case(partial(F.interpolate, mode=mode, **options), shape)


def pad(amounts: tuple[int, ...], shape: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Case:
    return op_case(partial(F.pad, pad=amounts, mode=mode, value=value), shape)


def blur_pool(x: torch.Tensor) -> torch.Tensor:
    """Binomial blur with reflected border, then every second place."""
    tap = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
    kernel = torch.outer(tap, tap).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def patches_and_back(x: torch.Tensor) -> torch.Tensor:
    """Unfold, a nonlinearity, fold: overlapping patches are summed."""
    columns = F.unfold(x, 3, padding=1, stride=2)
    return F.fold(columns.sin(), x.shape[-2:], 3, padding=1, stride=2)


def warp(x: torch.Tensor, theta: torch.Tensor, **options: object) -> torch.Tensor:
    """Samples an image on a fixed affine grid."""
    base = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=x.dtype)
    grid = F.affine_grid((base + 0.2 * theta).expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False, **options)


CASES: dict[str, Case] = {
    # shuffles
    "pixel_shuffle": module_case(lambda: nn.PixelShuffle(2), (8, 3, 4)),
    "pixel_shuffle_of_frames": module_case(lambda: nn.PixelShuffle(2), (3, 8, 3, 4)),
    "pixel_unshuffle_of_the_batch": op_case(lambda x: F.pixel_unshuffle(x.sin(), 2).reshape(-1, 8), (2, 4)),
    "pixel_shuffle3": module_case(lambda: nn.PixelShuffle(3), (9, 2, 3)),
    "pixel_unshuffle": module_case(lambda: nn.PixelUnshuffle(2), (2, 6, 4)),
    "pixel_unshuffle3": module_case(lambda: nn.PixelUnshuffle(3), (2, 6, 3)),
    "pixel_shuffle_between_convs": module_case(
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.PixelShuffle(2), nn.SiLU(), nn.Conv2d(2, 3, 3, 2)),
        (2, 4, 5),
    ),
    "channel_shuffle": module_case(lambda: nn.ChannelShuffle(2), (6, 3, 4)),
    "space_to_depth_by_hand": op_case(
        lambda x: x.unflatten(3, (3, 2)).unflatten(2, (2, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3), (2, 4, 6)
    ),
    # nearest
    "nearest_1d": resize("nearest", LINE, scale_factor=2),
    "nearest_2d": resize("nearest", IMAGE, scale_factor=2),
    "nearest_2d_asymmetric": resize("nearest", IMAGE, scale_factor=(3, 2)),
    "nearest_2d_fraction": resize("nearest", IMAGE, scale_factor=1.7),
    "nearest_2d_size": resize("nearest", IMAGE, size=(8, 7)),
    "nearest_2d_down": resize("nearest", IMAGE, scale_factor=0.5),
    "nearest_2d_down_size": resize("nearest", IMAGE, size=(3, 4)),
    "nearest_3d": resize("nearest", VOLUME, scale_factor=2),
    "nearest_1d_size_stays": resize("nearest", (2, 3), scale_factor=1.3),
    "nearest_2d_size_stays": resize("nearest", (2, 10, 3), scale_factor=1.3),
    "nearest_2d_doubles_by_a_fraction": resize("nearest", (2, 2, 5), scale_factor=2.3),
    "nearest_3d_size_stays": resize("nearest", (2, 10, 3, 3), scale_factor=1.3),
    "nearest_exact_2d_size_stays": resize("nearest-exact", (2, 10, 3), scale_factor=1.3),
    "nearest_exact_1d": resize("nearest-exact", LINE, size=10),
    "nearest_exact_2d": resize("nearest-exact", IMAGE, size=(8, 7)),
    "nearest_exact_2d_down": resize("nearest-exact", IMAGE, size=(3, 4)),
    "nearest_exact_3d": resize("nearest-exact", VOLUME, size=(5, 3, 7)),
    "upsample_then_conv": module_case(
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3, padding=1)), IMAGE
    ),
    # linear
    "linear": resize("linear", LINE, scale_factor=2, align_corners=False),
    "linear_corners": resize("linear", LINE, size=11, align_corners=True),
    "linear_down": resize("linear", LINE, size=4, align_corners=False),
    "bilinear": resize("bilinear", IMAGE, scale_factor=2, align_corners=False),
    "bilinear_corners": resize("bilinear", IMAGE, scale_factor=2, align_corners=True),
    "bilinear_fraction": resize("bilinear", IMAGE, scale_factor=1.7, align_corners=False),
    "bilinear_fraction_recomputed": resize(
        "bilinear", IMAGE, scale_factor=1.7, align_corners=False, recompute_scale_factor=True
    ),
    "bilinear_down": resize("bilinear", IMAGE, scale_factor=0.5, align_corners=False),
    "bilinear_down_corners": resize("bilinear", IMAGE, size=(3, 4), align_corners=True),
    "bilinear_up_and_down": resize("bilinear", IMAGE, size=(9, 4), align_corners=False),
    "bilinear_antialias": resize("bilinear", (3, 8, 9), size=(3, 4), align_corners=False, antialias=True),
    "bilinear_antialias_up": resize("bilinear", IMAGE, size=(7, 9), align_corners=False, antialias=True),
    "bilinear_to_one": resize("bilinear", IMAGE, size=(1, 1), align_corners=True),
    "trilinear": resize("trilinear", VOLUME, scale_factor=2, align_corners=False),
    "trilinear_corners": resize("trilinear", VOLUME, size=(5, 3, 7), align_corners=True),
    # cubic and area
    "bicubic": resize("bicubic", IMAGE, scale_factor=2, align_corners=False),
    "bicubic_corners": resize("bicubic", IMAGE, size=(8, 9), align_corners=True),
    "bicubic_down": resize("bicubic", IMAGE, size=(3, 4), align_corners=False),
    "bicubic_antialias": resize("bicubic", (3, 8, 9), size=(3, 4), align_corners=False, antialias=True),
    "area": resize("area", IMAGE, size=(3, 4)),
    "area_up": resize("area", IMAGE, scale_factor=2),
    "area_1d": resize("area", LINE, size=3),
    # padding
    "pad_constant_1d": pad((2, 1), LINE),
    "pad_constant_value": pad((1, 2, 0, 3), IMAGE, value=0.7),
    "pad_channels": pad((0, 0, 0, 0, 1, 2), IMAGE),
    "pad_crop": pad((-1, -2, -1, 0), IMAGE),
    "pad_crop_and_grow": pad((-1, 2, 3, -2), IMAGE, value=-0.5),
    "pad_constant_3d": pad((1, 0, 2, 1, 0, 1), VOLUME),
    "pad_reflect_1d": pad((3, 2), LINE, "reflect"),
    "pad_reflect_2d": pad((3, 2, 1, 4), IMAGE, "reflect"),
    "pad_reflect_3d": pad((1, 2, 3, 0, 1, 2), VOLUME, "reflect"),
    "pad_reflect_one_side": pad((0, 2, 0, 0), IMAGE, "reflect"),
    "pad_reflect_crop": pad((-1, 2, 1, -2), IMAGE, "reflect"),
    "pad_replicate_1d": pad((3, 2), LINE, "replicate"),
    "pad_replicate_2d": pad((3, 2, 1, 7), IMAGE, "replicate"),
    "pad_replicate_3d": pad((1, 2, 3, 0, 1, 2), VOLUME, "replicate"),
    "pad_replicate_crop": pad((-1, 2, 1, -2), IMAGE, "replicate"),
    "pad_circular_1d": pad((3, 2), LINE, "circular"),
    "pad_circular_2d": pad((3, 2, 1, 5), IMAGE, "circular"),
    "pad_circular_3d": pad((1, 2, 3, 0, 1, 2), VOLUME, "circular"),
    "pad_circular_crop": pad((-1, 2, 1, -2), IMAGE, "circular"),
    "zero_pad1d": module_case(lambda: nn.ZeroPad1d((1, 2)), LINE),
    "zero_pad2d": module_case(lambda: nn.ZeroPad2d((1, 0, 2, -1)), IMAGE),
    "zero_pad3d": module_case(lambda: nn.ZeroPad3d(1), VOLUME),
    "constant_pad2d": module_case(lambda: nn.ConstantPad2d(1, -1.5), IMAGE),
    "reflection_pad2d": module_case(lambda: nn.ReflectionPad2d((1, 2, 3, 0)), IMAGE),
    "replication_pad2d": module_case(lambda: nn.ReplicationPad2d(2), IMAGE),
    "circular_pad2d": module_case(lambda: nn.CircularPad2d((1, 2, 3, 0)), IMAGE),
    "pad_then_conv": module_case(
        lambda: nn.Sequential(nn.ReflectionPad2d((2, 1, 1, 2)), nn.Conv2d(3, 4, 4, stride=2)), IMAGE
    ),
    "blur_pool": op_case(blur_pool, (3, 7, 8)),
    # patches
    "unfold": module_case(lambda: nn.Unfold(2, stride=2), IMAGE),
    "unfold_overlapping": module_case(lambda: nn.Unfold((3, 2), padding=1, stride=(2, 1)), IMAGE),
    "unfold_dilation": module_case(lambda: nn.Unfold(2, dilation=2), IMAGE),
    "fold": module_case(lambda: nn.Fold((4, 6), 2, stride=2), (8, 6)),
    "fold_overlapping": module_case(lambda: nn.Fold((5, 6), 3, padding=1, stride=2), (18, 9)),
    "unfold_then_fold": op_case(patches_and_back, IMAGE),
    "patch_embedding_by_reshape": op_case(
        lambda x, w: x.reshape(-1, 3, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2) @ w,
        (3, 4, 6),
        (12, 5),
    ),
    # sampling
    "grid_sample_image": op_case(warp, IMAGE, (2, 3)),
    "grid_sample_border": op_case(partial(warp, padding_mode="border"), IMAGE, (2, 3)),
    "grid_sample_nearest": op_case(partial(warp, mode="nearest"), IMAGE, (2, 3)),
}
