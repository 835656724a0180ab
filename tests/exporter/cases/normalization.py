"""Normalisations of activations and of weights, in eval mode."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from . import Case
from .op_energy import module_case, op_case, seeded

__all__ = ["CASES"]

VECTOR = (6,)
SEQUENCE = (4, 6)
IMAGE = (4, 5, 6)
VOLUME = (4, 3, 4, 3)


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose kernel is standardised in forward: zero mean and unit variance per output channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = self.weight.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        kernel = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding, self.dilation, self.groups)


class EqualisedLinear(nn.Linear):
    """A linear layer whose weight is scaled in forward by a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * (2 / self.in_features) ** 0.5, self.bias)


class PowerIteratedLinear(nn.Linear):
    """A linear layer divided by its largest singular value, found by three steps of power iteration in forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = torch.ones(self.in_features, dtype=x.dtype)
        for _ in range(3):
            left = F.normalize(self.weight @ right, dim=0)
            right = F.normalize(self.weight.T @ left, dim=0)
        return F.linear(x, self.weight / (left @ self.weight @ right), self.bias)


def weight_norm_hook(module: nn.Module, dim: int | None = 0) -> nn.Module:
    """torch.nn.utils.weight_norm: deprecated, which it says in a warning, and all over older models."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)
        return nn.utils.weight_norm(module, dim=dim)


class SpectralBlock(nn.Module):
    """Two spectrally normalised layers, their vectors settled by a few calls in training mode."""

    def __init__(self, wrap: object) -> None:
        super().__init__()
        self.conv = wrap(nn.Conv2d(3, 4, 3, padding=1))
        self.linear = wrap(nn.Linear(4 * 5 * 5, 6))
        self.train()
        for _ in range(5):
            self(torch.randn(2, 3, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(F.leaky_relu(self.conv(x), 0.2).flatten(1)).square().sum(1)


class FilmNorm(nn.Module):
    """Instance norm whose scale and shift are computed from x."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(4)
        self.film = nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.film(x.mean((2, 3))).chunk(2, dim=1)
        h = self.norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return torch.tanh(h).square().sum((1, 2, 3))


def pixel_norm(x: torch.Tensor) -> torch.Tensor:
    """Each place divided by the root mean square over its channels."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6)


def layer_norm_2d(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Layer norm over channels, the way of ConvNeXt."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (4,), weight).permute(0, 3, 1, 2)


CASES: dict[str, Case] = {
    "batch_norm1d": module_case(lambda: nn.BatchNorm1d(6), VECTOR),
    "batch_norm1d_sequence": module_case(lambda: nn.BatchNorm1d(4), SEQUENCE),
    "batch_norm1d_no_affine": module_case(lambda: nn.BatchNorm1d(6, affine=False), VECTOR),
    "batch_norm2d": module_case(lambda: nn.BatchNorm2d(4), IMAGE),
    "batch_norm2d_no_affine": module_case(lambda: nn.BatchNorm2d(4, affine=False, eps=0.1), IMAGE),
    "batch_norm3d": module_case(lambda: nn.BatchNorm3d(4), VOLUME),
    "batch_norm_after_conv": module_case(
        lambda: nn.Sequential(nn.Conv2d(4, 3, 3, stride=2, bias=False), nn.BatchNorm2d(3), nn.ReLU()), IMAGE
    ),
    "batch_norm_before_conv": module_case(
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)), IMAGE
    ),
    "batch_norm_after_linear": module_case(
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()), VECTOR
    ),
    "batch_norm_after_conv_transpose": module_case(
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.BatchNorm2d(3), nn.SiLU()), IMAGE
    ),
    "instance_norm1d": module_case(lambda: nn.InstanceNorm1d(4), SEQUENCE),
    "instance_norm2d": module_case(lambda: nn.InstanceNorm2d(4), IMAGE),
    "instance_norm2d_affine": module_case(lambda: nn.InstanceNorm2d(4, affine=True), IMAGE),
    "instance_norm2d_running": module_case(lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE),
    "instance_norm3d": module_case(lambda: nn.InstanceNorm3d(4, affine=True, eps=1e-3), VOLUME),
    "instance_norm_functional": op_case(lambda x, w: F.instance_norm(x, weight=w), IMAGE, (4,)),
    "group_norm": module_case(lambda: nn.GroupNorm(2, 4), IMAGE),
    "group_norm_one_group": module_case(lambda: nn.GroupNorm(1, 4), IMAGE),
    "group_norm_no_affine": module_case(lambda: nn.GroupNorm(4, 4, affine=False), IMAGE),
    "group_norm_vector": module_case(lambda: nn.GroupNorm(2, 6), VECTOR),
    "group_norm_3d": module_case(lambda: nn.GroupNorm(2, 4, eps=1e-3), VOLUME),
    "layer_norm": module_case(lambda: nn.LayerNorm(6), SEQUENCE),
    "layer_norm_two_dims": module_case(lambda: nn.LayerNorm((4, 6)), SEQUENCE),
    "layer_norm_three_dims": module_case(lambda: nn.LayerNorm(IMAGE, eps=1e-3), IMAGE),
    "layer_norm_no_affine": module_case(lambda: nn.LayerNorm(6, elementwise_affine=False), SEQUENCE),
    "layer_norm_no_bias": module_case(lambda: nn.LayerNorm(6, bias=False), SEQUENCE),
    "layer_norm_channels": op_case(layer_norm_2d, IMAGE, (4,)),
    "rms_norm": module_case(lambda: nn.RMSNorm(6), SEQUENCE),
    "rms_norm_eps_two_dims": module_case(lambda: nn.RMSNorm((4, 6), eps=1e-3), SEQUENCE),
    "rms_norm_no_affine": module_case(lambda: nn.RMSNorm(6, elementwise_affine=False), SEQUENCE),
    "pixel_norm": op_case(pixel_norm, IMAGE),
    "local_response_norm": module_case(lambda: nn.LocalResponseNorm(3, alpha=0.5, beta=0.75, k=1.5), (6, 4, 3)),
    "local_response_norm_even": module_case(lambda: nn.LocalResponseNorm(2, alpha=1.0), (5, 4)),
    "local_response_norm_3d": module_case(lambda: nn.LocalResponseNorm(2, alpha=1.0), VOLUME),
    "normalize": op_case(F.normalize, SEQUENCE),
    "normalize_last_p1": op_case(lambda x: F.normalize(x, p=1, dim=-1), SEQUENCE),
    "normalize_infinity": op_case(lambda x: F.normalize(x, p=float("inf"), dim=-1) * 2, SEQUENCE, spread=True),
    "normalize_eps_reached": op_case(lambda x: F.normalize(x, dim=-1, eps=4.0), SEQUENCE),
    "standardise_by_hand": op_case(
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-3), SEQUENCE
    ),
    "adaptive_instance_norm": Case(seeded(FilmNorm), IMAGE),
    "weight_norm": module_case(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh()), VECTOR),
    "weight_norm_hook": module_case(lambda: nn.Sequential(weight_norm_hook(nn.Linear(6, 5)), nn.Tanh()), VECTOR),
    "weight_norm_hook_conv": module_case(lambda: weight_norm_hook(nn.Conv2d(4, 3, 3, stride=2)), IMAGE),
    "weight_norm_hook_transpose": module_case(
        lambda: weight_norm_hook(nn.ConvTranspose2d(4, 3, 3, stride=2), dim=1), IMAGE
    ),
    "weight_norm_conv": module_case(lambda: parametrizations.weight_norm(nn.Conv2d(4, 3, 3, stride=2)), IMAGE),
    "weight_norm_all": module_case(lambda: parametrizations.weight_norm(nn.Conv1d(4, 3, 3), dim=None), SEQUENCE),
    "weight_norm_transpose": module_case(
        lambda: parametrizations.weight_norm(nn.ConvTranspose2d(4, 3, 3, stride=2), dim=1), IMAGE
    ),
    "spectral_norm_hook": Case(seeded(lambda: SpectralBlock(nn.utils.spectral_norm)), (3, 5, 5)),
    "spectral_norm_hook_fresh": module_case(lambda: nn.utils.spectral_norm(nn.Linear(6, 5)), VECTOR),
    "spectral_norm_hook_transpose": module_case(
        lambda: nn.utils.spectral_norm(nn.ConvTranspose2d(4, 3, 4, 2, 1)), IMAGE
    ),
    "spectral_norm": Case(seeded(lambda: SpectralBlock(parametrizations.spectral_norm)), (3, 5, 5)),
    "spectral_norm_vector": module_case(
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), parametrizations.spectral_norm(nn.GroupNorm(2, 4))), IMAGE
    ),
    "spectral_norm_embedding_of_linear": module_case(
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(6, 5), n_power_iterations=3),
            nn.SiLU(),
            parametrizations.spectral_norm(nn.Linear(5, 4, bias=False), dim=1),
        ),
        VECTOR,
    ),
    "orthogonal": module_case(lambda: parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley"), VECTOR),
    "weight_standardisation": module_case(lambda: StandardisedConv2d(4, 3, 3, padding=1), IMAGE),
    "weight_standardisation_stride2_groups": module_case(
        lambda: nn.Sequential(StandardisedConv2d(4, 4, 3, stride=2, groups=2), nn.GroupNorm(2, 4)), IMAGE
    ),
    "equalised_learning_rate": module_case(lambda: EqualisedLinear(6, 5), VECTOR),
    "power_iteration_in_forward": module_case(lambda: PowerIteratedLinear(6, 5), VECTOR),
    "dropout_in_eval": module_case(
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.AlphaDropout(0.2), nn.Tanh()), VECTOR
    ),
    "dropout2d_in_eval": module_case(
        lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.Dropout2d(0.5, inplace=True), nn.FeatureAlphaDropout()), IMAGE
    ),
}
