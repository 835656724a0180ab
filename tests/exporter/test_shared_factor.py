"""Products with a repeated matrix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.calibration.quantization.layers import find_layers
from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.trace import trace

from .referee import score_graph, session

aten = torch.ops.aten


class Attending(nn.Module):
    """Batch-first attention, whose input projection PyTorch applies to [T, B, E]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.attention = nn.Linear(2, 16), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        return self.attention(h, h, h, need_weights=False)[0].square().sum((1, 2)) + x.square().sum((1, 2))


@pytest.mark.parametrize("tokens", [3, 40])
def test_the_projection_of_an_attention_is_a_layer_in_both_halves(tokens: int) -> None:
    model = score_graph(make_energy(Attending().eval(), torch.randn(4, tokens, 2)))
    shapes = [constant(model, layer.weight).shape for layer in find_layers(model) if layer.module == "attention"]
    assert sorted(shapes) == [(16, 16), (16, 16), (16, 48), (48, 16)]
    held = sum(value.const_value.size for value in model.graph.initializers.values() if value.const_value is not None)
    assert held < 3 * sum(
        parameter.numel() for parameter in Attending().parameters()
    )  # each half has its own, and no copies


class Reading(nn.Module):
    """Attention of x to tokens of a condition, which becomes a prologue."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.read = nn.Linear(3, 32), nn.Linear(5, 32)
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        h, k = self.embed(x), self.read(tokens)
        return self.head(torch.tanh(h + self.attention(h, k, k, need_weights=False)[0])).mean((1, 2)) + x.square().sum(
            (1, 2)
        )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_opens_it_behind_a_transpose(tmp_path: Path, precision: str) -> None:
    """In FP16 onnxruntime 1.32 crashed, the process with it, on a product of three dimensions with two."""
    tokens = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(1))
    code = (
        "import numpy as np\nfrom ebm_export.runtime import load\n"
        f"with load({str(tmp_path / 'a.ebm')!r}, backend='onnxruntime', precision={precision!r}) as ebm:\n"
        f"    energy, grad = ebm.score(np.ones((4, 6, 3), np.float32), tokens=np.load({str(tmp_path / 'tokens.npy')!r}))\n"
        f"    np.save({str(tmp_path / 'grad.npy')!r}, grad)"
    )
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    more = {
        "sampler": {"steps": 4, "step_size": 0.05},
        "verify": False,
        "gate": None,
        "precisions": ["fp32", precision],
    }
    export(Reading().eval(), torch.zeros(4, 6, 3), cond={"tokens": tokens}, out=tmp_path / "a.ebm", **more)
    subprocess.run([sys.executable, "-c", code], check=True)
    x = torch.ones(4, 6, 3, requires_grad=True)
    Reading().eval()(x, tokens).sum().backward()
    np.testing.assert_allclose(np.load(tmp_path / "grad.npy"), x.grad, rtol=2e-2, atol=2e-3)


def test_a_matrix_that_depends_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(1)

    def energy(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        factor = c.reshape(len(c), 5).expand(7, len(c), 5).transpose(1, 2)  # [7, 5, B]
        return (torch.bmm(x.transpose(0, 1), factor).square().sum((0, 2)) * 0 + x.square().sum((1, 2))) * c.sum((1, 2))

    made = make_energy(energy, torch.randn(3, 7, 5, generator=generator), cond={"c": torch.ones(3, 1, 5)})
    x = np.ones((4, 7, 5), np.float32)
    found = session(score_graph(made)).run(
        ["grad"], {"x": x, "c": np.ones((4, 1, 5), np.float32), "grad_scale": np.ones(4, np.float32)}
    )
    np.testing.assert_allclose(found[0], 10 * x, rtol=1e-4, atol=1e-4)


def constant(model: ir.Model, name: str) -> np.ndarray:
    held = model.graph.initializers[name].const_value
    assert held is not None
    return held.numpy()


@pytest.mark.parametrize("form", ["expand", "expand of three", "swapped", "permuted", "several"])
def test_gradients_are_those_of_pytorch(form: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 5, generator=generator)

    def energy(x: torch.Tensor) -> torch.Tensor:
        rows = x.transpose(0, 1)  # [T, B, 5]
        if form == "expand":
            factor = weight.expand(7, 5, 5)
        elif form == "expand of three":
            factor = weight[None].expand(7, 5, 5)
        elif form == "swapped":
            factor = weight.expand(7, 5, 5).transpose(1, 2)
        elif form == "permuted":
            factor = weight.expand(7, 5, 5).permute(0, 2, 1)
        else:  # no matrix is repeated here
            factor = torch.stack([weight * number for number in range(7)])
        return torch.bmm(rows, factor).sin().sum((0, 2))

    made = make_energy(energy, torch.randn(3, 7, 5, generator=generator), wrt="x")
    products = [node for node in trace(made).graph.nodes if node.target is aten.bmm.default]
    assert len(products) == (2 if form == "several" else 0)
    x = torch.randn(4, 7, 5, generator=generator, requires_grad=True)
    wanted = energy(x)
    wanted.sum().backward()
    found = session(score_graph(made)).run(
        ["energy", "grad"], {"x": x.detach().numpy(), "grad_scale": np.ones(4, np.float32)}
    )
    np.testing.assert_allclose(found[0], wanted.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], x.grad, rtol=1e-4, atol=1e-5)
