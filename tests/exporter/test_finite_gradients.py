"""Gradients that are no numbers by PyTorch's formula on an engine that takes tiny numbers for zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.targets import target
from ebm_export.runtime.backends import open_engine

from .referee import score_graph

SINC: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "torch.sinc": torch.sinc,
    "torch.special.sinc": torch.special.sinc,
    "Tensor.sinc": torch.Tensor.sinc,
    "aten.sinc": torch.ops.aten.sinc.default,
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", SINC)
def test_sinc_around_zero(name: str, engine: str, tmp_path: Path) -> None:
    x = torch.tensor([0.0, 1e-38, 1e-20, -1e-19, 1e-10, 1e-5, 0.1, 0.159, 0.16, -1.0, 2.5])[:, None]
    graph = ir.to_proto(score_graph(make_energy(lambda x: SINC[name](x).sum(1), torch.rand(4, 1))))
    entry = target(engine).write(graph, tmp_path, precision="fp32", batch=(1, 8, 16))
    feeds = {"x": x.numpy(), "grad_scale": np.ones(len(x), np.float32)}
    with open_engine(engine, tmp_path / entry["path"], precision="fp32", threads=1, options={}) as opened:
        found = opened.run(feeds)
    s = torch.pi * x.double()
    slope = torch.where(s.abs() < 1e-4, -s / 3, (s * s.cos() - s.sin()) / (s * s)) * torch.pi
    np.testing.assert_allclose(found["energy"], torch.sinc(x.double()).flatten(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["grad"], slope, rtol=1e-5, atol=1e-6)
