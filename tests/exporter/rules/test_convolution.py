"""The input gradient of a convolution as a convolution, against PyTorch's own operation in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.rules.convolution import input_gradient

from ..referee import score_graph

GEOMETRIES = [
    (kernel, stride, padding, dilation)
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3, 4, 5), (1, 2, 3, 4), (0, 1, 2, 5), (1, 2, 3))
]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [11, 12, 13])
def test_every_geometry_of_one_axis(size: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(size)
    checked = 0
    for kernel, stride, padding, dilation in GEOMETRIES:
        if dilation * (kernel - 1) + 1 > size + 2 * padding:
            continue
        x = torch.randn(2, 4, size, dtype=torch.float64, generator=generator, requires_grad=True)
        weight = torch.randn(6, 4 // groups, kernel, dtype=torch.float64, generator=generator)
        out = torch.conv1d(x, weight, None, stride, padding, dilation, groups)
        grad = torch.randn(out.shape, dtype=torch.float64, generator=generator)
        (expected,) = torch.autograd.grad(out, x, grad)
        got = input_gradient(grad, weight, (size,), (stride,), (padding,), (dilation,), groups)
        torch.testing.assert_close(got, expected, msg=f"{kernel=} {stride=} {padding=} {dilation=}")
        checked += 1
    assert checked > 200


@pytest.mark.parametrize("stride", [(1, 2), (2, 2), (3, 2)])
def test_axes_do_not_mix(stride: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 2, dtype=torch.float64)
    out = torch.conv2d(x, weight, None, stride, (1, 0), (2, 1))
    grad = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, x, grad)
    got = input_gradient(grad, weight, (9, 8), stride, (1, 0), (2, 1), 1)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("stride", [1, 2, 30])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_a_kernel_that_lies_in_one_place(size: int, stride: int) -> None:
    checked = 0
    for kernel, padding in itertools.product((1, 2, 4, 7, 9), (0, 1, 2, 5)):
        if not 1 <= size + 2 * padding - kernel + 1 <= stride:
            continue
        x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64)
        out = torch.conv2d(x, weight, None, stride, padding)
        assert out.shape[2:] == (1, 1)
        grad = torch.randn_like(out)
        (expected,) = torch.autograd.grad(out, x, grad)
        got = input_gradient(grad, weight, (size, size), (stride, stride), (padding, padding), (1, 1), 1)
        torch.testing.assert_close(got, expected, msg=f"{kernel=} {padding=}")
        checked += 1
    assert checked


def test_one_place_is_a_product() -> None:
    model = score_graph(
        make_energy(nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten(), nn.Linear(8, 1)), torch.randn(4, 3, 4, 4))
    )
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Conv") == 1
