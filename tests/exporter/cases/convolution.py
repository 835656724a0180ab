"""Convolutions: sizes that the stride does not divide, every padding mode, groups, dilation, transposed ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from . import Case
from .op_energy import module_case, op_case, seeded

__all__ = ["CASES"]


class SharedKernel(nn.Module):
    """One kernel used at two places, so that its node has two users."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.conv(x))
        return self.conv(h).square().flatten(1).sum(1)


class KernelFromInput(nn.Module):
    """A grouped convolution whose kernel depends on x: correlates each sample with its own corner."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernels = x[:, :, :3, :3].flatten(0, 1).unsqueeze(1)  # [B * C, 1, 3, 3]
        planes = x.flatten(0, 1).unsqueeze(0)  # [1, B * C, H, W]
        h = F.conv2d(planes, kernels, groups=planes.shape[1])
        return torch.tanh(h).square().view(x.shape[0], -1).sum(1)


CASES: dict[str, Case] = {
    # one dimension
    "conv1d": module_case(lambda: nn.Conv1d(3, 4, 3), (3, 9)),
    "conv1d_stride2": module_case(lambda: nn.Conv1d(3, 4, 3, stride=2), (3, 10)),
    "conv1d_stride2_padding": module_case(lambda: nn.Conv1d(3, 4, 4, stride=2, padding=1), (3, 9)),
    "conv1d_stride3_rest1": module_case(lambda: nn.Conv1d(3, 4, 3, stride=3, padding=1), (3, 10)),
    "conv1d_stride3_rest2": module_case(lambda: nn.Conv1d(3, 4, 3, stride=3, padding=1), (3, 11)),
    "conv1d_stride3_kernel2": module_case(lambda: nn.Conv1d(3, 4, 2, stride=3), (3, 10)),
    "conv1d_stride3_dilation2": module_case(lambda: nn.Conv1d(3, 4, 3, stride=3, dilation=2, padding=2), (3, 11)),
    "conv1d_stride2_dilation3": module_case(lambda: nn.Conv1d(3, 4, 3, stride=2, dilation=3, padding=3), (3, 12)),
    "conv1d_dilation_causal": op_case(
        lambda x, w, b: F.conv1d(F.pad(x, (4, 0)), w, b, dilation=2), (3, 9), (4, 3, 3), (4,)
    ),
    "conv1d_same": module_case(lambda: nn.Conv1d(3, 4, 5, padding="same"), (3, 9)),
    "conv1d_same_even_dilation": module_case(lambda: nn.Conv1d(3, 4, 4, padding="same", dilation=2), (3, 9)),
    "conv1d_valid": module_case(lambda: nn.Conv1d(3, 4, 5, padding="valid"), (3, 9)),
    "conv1d_groups": module_case(lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (4, 9)),
    "conv1d_groups_stride2": module_case(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 10)),
    "conv1d_depthwise": module_case(lambda: nn.Conv1d(4, 8, 3, groups=4, bias=False), (4, 9)),
    "conv1d_reflect": module_case(lambda: nn.Conv1d(3, 4, 3, padding=2, padding_mode="reflect"), (3, 9)),
    "conv1d_circular_stride2": module_case(
        lambda: nn.Conv1d(3, 4, 5, stride=2, padding=2, padding_mode="circular"), (3, 10)
    ),
    "conv1d_one_tap": module_case(lambda: nn.Conv1d(3, 4, 1), (3, 7)),
    "conv1d_whole_input": module_case(lambda: nn.Conv1d(3, 4, 7), (3, 7)),
    # two dimensions
    "conv2d": module_case(lambda: nn.Conv2d(3, 4, 3), (3, 7, 7)),
    "conv2d_padding1": module_case(lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 7, 6)),
    "conv2d_no_bias": module_case(lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 6, 7)),
    "conv2d_one_channel": module_case(lambda: nn.Conv2d(1, 4, 3, padding=1), (1, 7, 7)),
    "conv2d_one_output_channel": module_case(lambda: nn.Conv2d(3, 1, 3, padding=1), (3, 7, 7)),
    "conv2d_1x1": module_case(lambda: nn.Conv2d(3, 5, 1), (3, 6, 7)),
    "conv2d_1x1_stride2_even": module_case(lambda: nn.Conv2d(3, 5, 1, stride=2, bias=False), (3, 8, 8)),
    "conv2d_1x1_stride2_odd": module_case(lambda: nn.Conv2d(3, 5, 1, stride=2), (3, 7, 7)),
    "conv2d_1x1_padding": module_case(lambda: nn.Conv2d(3, 5, 1, padding=1), (3, 6, 6)),
    "conv2d_stride2_even": module_case(lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 8, 8)),
    "conv2d_stride2_odd": module_case(lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 9)),
    "conv2d_stride2_no_padding": module_case(lambda: nn.Conv2d(3, 4, 3, stride=2), (3, 8, 7)),
    "conv2d_stride2_kernel4": module_case(lambda: nn.Conv2d(3, 4, 4, stride=2, padding=1), (3, 8, 8)),
    "conv2d_stride2_kernel4_odd": module_case(lambda: nn.Conv2d(3, 4, 4, stride=2, padding=1), (3, 9, 7)),
    "conv2d_stride2_kernel2": module_case(lambda: nn.Conv2d(3, 4, 2, stride=2), (3, 7, 8)),
    "conv2d_stride2_kernel5": module_case(lambda: nn.Conv2d(3, 4, 5, stride=2, padding=2), (3, 8, 9)),
    "conv2d_stride3": module_case(lambda: nn.Conv2d(3, 4, 3, stride=3), (3, 8, 9)),
    "conv2d_stride3_rest": module_case(lambda: nn.Conv2d(3, 4, 4, stride=3, padding=1), (3, 8, 10)),
    "conv2d_kernel_below_stride": module_case(lambda: nn.Conv2d(3, 4, 2, stride=3), (3, 9, 10)),
    "conv2d_patches": module_case(lambda: nn.Conv2d(3, 6, 4, stride=4), (3, 8, 8)),
    "conv2d_stride_asymmetric": module_case(lambda: nn.Conv2d(3, 4, (3, 5), stride=(1, 2), padding=(1, 2)), (3, 7, 8)),
    "conv2d_stride_1_3": module_case(lambda: nn.Conv2d(3, 4, (2, 3), stride=(3, 1), padding=(0, 1)), (3, 9, 7)),
    "conv2d_kernel_asymmetric": module_case(lambda: nn.Conv2d(3, 4, (1, 5), padding=(0, 2)), (3, 6, 7)),
    "conv2d_even_kernel": module_case(lambda: nn.Conv2d(3, 4, 4, padding=1), (3, 7, 6)),
    "conv2d_even_kernel_2x2": module_case(lambda: nn.Conv2d(3, 4, 2), (3, 7, 6)),
    "conv2d_same": module_case(lambda: nn.Conv2d(3, 4, (3, 5), padding="same"), (3, 7, 6)),
    "conv2d_same_even_dilation": module_case(lambda: nn.Conv2d(3, 4, 4, padding="same", dilation=2), (3, 8, 7)),
    "conv2d_valid": module_case(lambda: nn.Conv2d(3, 4, 3, padding="valid"), (3, 7, 6)),
    "conv2d_wide_padding": module_case(lambda: nn.Conv2d(3, 4, 3, padding=4), (3, 6, 5)),
    "conv2d_wide_padding_stride2": module_case(lambda: nn.Conv2d(3, 4, 3, stride=2, padding=(3, 5)), (3, 6, 7)),
    "conv2d_dilation2": module_case(lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2), (3, 7, 8)),
    "conv2d_dilation_asymmetric": module_case(lambda: nn.Conv2d(3, 4, 3, dilation=(1, 3), padding=(1, 2)), (3, 7, 9)),
    "conv2d_dilation2_stride2": module_case(lambda: nn.Conv2d(3, 4, 3, dilation=2, stride=2, padding=1), (3, 9, 8)),
    "conv2d_dilation3_stride2": module_case(lambda: nn.Conv2d(3, 4, 3, dilation=3, stride=2, padding=3), (3, 9, 8)),
    "conv2d_dilation2_stride3": module_case(lambda: nn.Conv2d(3, 4, 2, dilation=2, stride=3), (3, 9, 8)),
    "conv2d_groups": module_case(lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 7, 6)),
    "conv2d_groups_stride2": module_case(lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7, 8)),
    "conv2d_groups_stride2_dilation2": module_case(
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (4, 9, 8)
    ),
    "conv2d_depthwise": module_case(lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 7, 6)),
    "conv2d_depthwise_stride2": module_case(lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (4, 7, 8)),
    "conv2d_depthwise_multiplier": module_case(
        lambda: nn.Conv2d(3, 6, 4, stride=2, padding=1, groups=3, bias=False), (3, 7, 8)
    ),
    "conv2d_depthwise_separable": module_case(
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, 5, 1)), (3, 6, 6)
    ),
    "conv2d_reflect": module_case(lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (3, 6, 7)),
    "conv2d_replicate": module_case(lambda: nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="replicate"), (3, 6, 7)),
    "conv2d_circular": module_case(lambda: nn.Conv2d(3, 4, 5, padding=(2, 1), padding_mode="circular"), (3, 6, 7)),
    "conv2d_reflect_stride2": module_case(
        lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="reflect"), (3, 8, 7)
    ),
    "conv2d_replicate_stride3_groups": module_case(
        lambda: nn.Conv2d(4, 4, 3, stride=3, padding=1, padding_mode="replicate", groups=2), (4, 8, 9)
    ),
    "conv2d_circular_dilation_same": module_case(
        lambda: nn.Conv2d(3, 4, 3, dilation=2, padding="same", padding_mode="circular"), (3, 6, 7)
    ),
    "conv2d_stack": module_case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 6, 4, 2, 1), nn.SiLU(), nn.Conv2d(6, 6, 3, 2, 1)
        ),
        (3, 9, 9),
    ),
    "conv2d_shared_kernel": Case(seeded(SharedKernel), (3, 6, 6)),
    "conv2d_kernel_from_input": Case(seeded(KernelFromInput), (2, 6, 6), x_scale=0.6),
    "conv2d_of_one_channel_scaled_to_three": op_case(
        lambda x, c, w: F.conv2d(x * c, w, padding=1), (1, 5, 6), (3, 1, 1), (4, 3, 3, 3)
    ),
    "conv2d_between_masks_of_the_kernel_size": op_case(
        lambda x, c, w: F.conv2d(x * c, w, padding=1) * c.sin(), (3, 3, 3), (3, 3), (4, 3, 3, 3)
    ),
    "conv2d_functional_blur": op_case(
        lambda x, w: F.conv2d(x, (w * w / (w * w).sum()).expand(3, 1, 3, 3), padding=1, groups=3, stride=2),
        (3, 7, 7),
        (1, 1, 3, 3),
    ),
    # three dimensions
    "conv3d": module_case(lambda: nn.Conv3d(2, 3, 3, padding=1), (2, 5, 4, 5)),
    "conv3d_stride2": module_case(lambda: nn.Conv3d(2, 3, 3, stride=2, padding=1), (2, 5, 6, 5)),
    "conv3d_stride_asymmetric": module_case(
        lambda: nn.Conv3d(2, 3, (1, 3, 2), stride=(1, 2, 3), padding=(0, 1, 1)), (2, 3, 6, 5)
    ),
    "conv3d_kernel_below_stride": module_case(lambda: nn.Conv3d(2, 3, 1, stride=2, bias=False), (2, 5, 4, 5)),
    "conv3d_dilation": module_case(lambda: nn.Conv3d(2, 3, 2, dilation=(1, 2, 2)), (2, 3, 5, 5)),
    "conv3d_groups": module_case(lambda: nn.Conv3d(4, 4, 3, padding=1, groups=2), (4, 3, 5, 4)),
    "conv3d_depthwise_stride2": module_case(lambda: nn.Conv3d(3, 3, 3, stride=2, padding=1, groups=3), (3, 5, 4, 5)),
    "conv3d_replicate": module_case(lambda: nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 3, 4, 5)),
    "conv3d_circular": module_case(lambda: nn.Conv3d(2, 3, 3, padding=1, padding_mode="circular"), (2, 3, 4, 5)),
    "conv3d_same": module_case(lambda: nn.Conv3d(2, 3, 3, padding="same"), (2, 3, 4, 5)),
    # transposed
    "conv_transpose1d": module_case(lambda: nn.ConvTranspose1d(3, 4, 3), (3, 6)),
    "conv_transpose1d_stride2": module_case(lambda: nn.ConvTranspose1d(3, 4, 4, stride=2, padding=1), (3, 6)),
    "conv_transpose1d_stride3_output_padding": module_case(
        lambda: nn.ConvTranspose1d(3, 4, 3, stride=3, padding=1, output_padding=2), (3, 5)
    ),
    "conv_transpose1d_kernel_below_stride": module_case(lambda: nn.ConvTranspose1d(3, 4, 2, stride=3), (3, 5)),
    "conv_transpose1d_dilation": module_case(lambda: nn.ConvTranspose1d(3, 4, 3, dilation=2, padding=1), (3, 6)),
    "conv_transpose1d_output_padding_above_stride": module_case(
        lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=2, dilation=3), (3, 6)
    ),
    "conv_transpose1d_stride1_output_padding": module_case(
        lambda: nn.ConvTranspose1d(3, 2, 3, dilation=3, output_padding=2), (3, 7)
    ),
    "conv_transpose1d_stride1_output_padding_and_wide_padding": module_case(
        lambda: nn.ConvTranspose1d(3, 2, 2, dilation=3, padding=5, output_padding=2), (3, 9)
    ),
    "conv_transpose2d": module_case(lambda: nn.ConvTranspose2d(3, 4, 3), (3, 5, 6)),
    "conv_transpose2d_stride2": module_case(lambda: nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), (3, 4, 5)),
    "conv_transpose2d_stride2_output_padding": module_case(
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 4, 5)
    ),
    "conv_transpose2d_asymmetric": module_case(
        lambda: nn.ConvTranspose2d(3, 4, (3, 2), stride=(1, 3), padding=(2, 0), output_padding=(0, 1)), (3, 5, 4)
    ),
    "conv_transpose2d_groups": module_case(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (4, 4, 5)
    ),
    "conv_transpose2d_depthwise": module_case(lambda: nn.ConvTranspose2d(4, 4, 3, groups=4, padding=1), (4, 5, 5)),
    "conv_transpose2d_dilation2_stride2": module_case(
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, dilation=2, padding=2, output_padding=1), (3, 4, 5)
    ),
    "conv_transpose2d_output_padding_above_stride": module_case(
        lambda: nn.ConvTranspose2d(
            4, 4, (3, 2), stride=(1, 2), dilation=(4, 1), padding=1, output_padding=(3, 1), groups=2
        ),
        (4, 4, 5),
    ),
    "conv_transpose2d_wide_padding": module_case(lambda: nn.ConvTranspose2d(3, 4, 3, padding=2), (3, 6, 6)),
    "conv_transpose3d": module_case(lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 3, 2, 3)),
    "conv_transpose3d_stride1_output_padding": module_case(
        lambda: nn.ConvTranspose3d(4, 2, 2, dilation=(2, 1, 3), output_padding=(1, 0, 2), groups=2), (4, 2, 3, 3)
    ),
    "conv_transpose3d_options": module_case(
        lambda: nn.ConvTranspose3d(4, 4, 3, stride=(1, 2, 2), padding=1, output_padding=(0, 1, 0), groups=2),
        (4, 3, 2, 3),
    ),
}
