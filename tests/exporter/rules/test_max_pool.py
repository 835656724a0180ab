"""Gradients of max pools on engines that round to FP16 where it suits them; values in float32 are the zoo's matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.precision import typed
from ebm_export.exporter.rules.first_maximum import first_maximum
from ebm_export.exporter.targets import target
from ebm_export.runtime.backends import open_engine

from ..referee import score_graph

POOLS = {
    "2d": (nn.Conv2d, nn.MaxPool2d(2)),
    "2d_overlapping": (nn.Conv2d, nn.MaxPool2d(3, 2, 1)),
    "2d_stride1": (nn.Conv2d, nn.MaxPool2d(3, 1, 1)),
    "2d_dilation": (nn.Conv2d, nn.MaxPool2d(2, 2, dilation=2)),
    "2d_adaptive": (nn.Conv2d, nn.AdaptiveMaxPool2d(3)),
    "3d": (nn.Conv3d, nn.MaxPool3d(2)),
    "3d_overlapping": (nn.Conv3d, nn.MaxPool3d(3, 2, 1)),
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", POOLS)
def test_gradient_in_fp16_behind_a_convolution(name: str, engine: str, tmp_path: Path) -> None:
    convolution, pool = POOLS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(16, 1, *[8] * (3 if convolution is nn.Conv3d else 2))
        front = nn.Sequential(convolution(1, 4, 3, padding=1), nn.SiLU(), pool, nn.Flatten())
        model = nn.Sequential(front, nn.Linear(front(x).shape[1], 1)).eval()
    graph = ir.to_proto(typed(score_graph(make_energy(model, x[:2])), "fp16"))
    entry = target(engine).write(graph, tmp_path, precision="fp16", batch=(1, 8, 16))
    with open_engine(engine, tmp_path / entry["path"], precision="fp16", threads=1, options=entry["options"]) as opened:
        grad = opened.run({"x": x.numpy(), "grad_scale": np.ones(len(x), np.float32)})["grad"]
    exact = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(model.double()(exact).sum(), exact)
    # Samples one of whose maxima FP16 makes another one may be far off; where it does not, its own rounding is left.
    error = (torch.tensor(grad) - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.median() < 2e-3
    assert error.max() < 0.3


def test_one_tap_wins_where_nothing_equals_the_maximum() -> None:
    windows = torch.tensor([1.0, torch.nan, 3.0]).reshape(1, 1, 3, 1)
    parts = first_maximum(windows, windows.amax(2), torch.ones(1, 1, 1))
    assert parts.sum() == 1
