"""Operations without a rule end with exit code 4, and say where in the user's model they stand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.runtime.errors import EbmExportError, UnsupportedOperation

from .cases import REFUSED, all_cases
from .referee import energy_of, score_graph


class Warp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = F.affine_grid(torch.eye(2, 3).expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x.sin(), grid, align_corners=False)


class Unpool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, index = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(value.sin(), index, 2)


class OwnKernel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        kernel = x[:, :, :3, :3].detach().reshape(batch, 1, 3, 3)
        return F.conv2d(x.reshape(1, batch, 8, 8), kernel, groups=batch).reshape(batch, 1, 6, 6)


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Tanh(), inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x).square().sum((1, 2, 3))


@pytest.mark.parametrize(
    ("inner", "operation"),
    [(Warp(), "grid_sampler_2d_backward"), (Unpool(), "max_pool2d_with_indices"), (OwnKernel(), "aten.convolution")],
)
def test_names_operation_module_and_line(inner: nn.Module, operation: str) -> None:
    with pytest.raises(UnsupportedOperation) as caught:
        score_graph(make_energy(Holder(inner), torch.zeros(2, 1, 8, 8)))
    text = str(caught.value)
    assert operation in text
    assert "module 'blocks.1'" in text
    assert "test_unsupported.py:" in text and "in forward" in text
    assert "docs/adding-a-rule.md" in text
    assert caught.value.exit_code == 4


def written(x: torch.Tensor) -> torch.Tensor:
    h = x.sin()
    h[0] = h[0] * 2
    return h


# Each stays within a sample as far as the contract can see, and has the batch where ONNX wants a number.
ON_THE_BATCH = {
    "select_scatter": (written, "one sample of the batch is written by its number"),
    "constant_pad_nd": (lambda x: x + 0 * F.pad(x.sin(), (0, 0, -1, 1)), "the batch is cut by a negative pad"),
    "reflection_pad2d": (
        lambda x: x + 0 * F.pad(x.sin()[None], (0, 0, -1, -1), mode="reflect").sum(),
        "the batch is cut by a negative pad",
    ),
    "pixel_unshuffle": (
        lambda x: x + F.pixel_unshuffle(x.sin().repeat_interleave(2, 0)[None], 2).sum((0, 2))[:, None],
        "the batch is taken for an image's height or width",
    ),
    "upsample_nearest2d": (
        lambda x: x + F.interpolate(x.mT[None, :, :, None].sin(), scale_factor=(1, 2)).sum((0, 1, 3))[:, None],
        "the batch is taken for an image's height or width",
    ),
    "argmax": (lambda x: x * (1 + 0 * x.argmax()), "the largest of the whole batch, which mixes samples"),
    "diagonal": (lambda x: x + (x @ x.mT).diagonal()[:, None], "a diagonal along the batch"),
}


@pytest.mark.parametrize("operation", ON_THE_BATCH)
def test_the_batch_in_the_place_of_a_number(operation: str) -> None:
    function, reason = ON_THE_BATCH[operation]
    with pytest.raises(UnsupportedOperation) as caught:
        score_graph(make_energy(lambda x: function(x).square().sum(1), torch.randn(2, 4)))
    text = str(caught.value)
    assert f"operation aten.{operation}.default, in the model itself (test_unsupported.py:" in text
    assert reason in text
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_taken_is_refused_by_name(name: str) -> None:
    with pytest.raises(EbmExportError, match=r"\.py:\d+, in ") as caught:
        score_graph(energy_of(all_cases()[name]))
    assert caught.value.exit_code == REFUSED[name]
