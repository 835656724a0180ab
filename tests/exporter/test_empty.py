"""Tensors without elements, and those that have none at the traced batch alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.runtime import load
from tests.calibration.quantization.graphs import run

from .referee import score_graph


class PastTheEnd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin().sum((1, 2)) + x[:, 4:].sum((1, 2))


class LaterRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.sin() + 0.0
        y[7:] = 0  # none at a batch of 7, the first of the two that this model is traced at
        return y.sum((1, 2)) + 0.1 * x.square().sum((1, 2))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_slice_past_the_end_is_nothing_to_every_engine(tmp_path: Path, target: str) -> None:
    model, x = PastTheEnd(), torch.randn(3, 4, 5)
    with load(export(model, x, out=tmp_path / "m.ebm", targets=[target])) as ebm:
        energy, grad = ebm.score(x.numpy())
    np.testing.assert_allclose(energy, model(x), rtol=1e-5)
    np.testing.assert_allclose(grad, x.cos(), rtol=1e-5, atol=1e-6)


def test_rows_past_the_traced_batch_are_written() -> None:
    x = torch.randn(9, 4, 5)
    graph = score_graph(make_energy(LaterRows(), torch.randn(2, 4, 5)))
    energy = run(graph, {"x": x.numpy(), "grad_scale": np.ones(9, np.float32)})["energy"]
    np.testing.assert_allclose(energy, LaterRows()(x), rtol=1e-5)
