"""Constants that are worked out at the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.golden import make_golden
from ebm_export.exporter.lowering import lower
from ebm_export.exporter.trace import trace
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.bundle import GOLDEN
from tests.calibration.quantization.graphs import run

CONFIG = SamplerConfig(steps=12, step_size=0.01)


class Rows(nn.Module):
    """Rows of a table, picked by places that a float buffer holds."""

    def __init__(self, pick: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("places", torch.linspace(0, 1, 11))
        self.table = nn.Parameter(torch.randn(11, 3))
        self.pick = pick

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.table[self.pick(self.places)]
        near = (x[:, None] - rows).square().sum(-1).tanh()
        return (near * torch.arange(1, 12)).sum(-1) + x.square().sum(-1)


class Grid(nn.Module):
    """Weights that are cut to tenths."""

    def __init__(self, cut: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter((torch.randint(-20, 20, (8, 3)) / 10).float())
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.cut(self.weight).T).sum(-1) + x.square().sum(-1)


MODELS = {
    "long": Rows(lambda places: (places * 10).long()),
    "compared": Rows(lambda places: torch.where(places * 10 >= torch.arange(11.0), 0, 1)),
    "sorted": Rows(lambda places: (places * 10 % 1).sort(stable=True).indices),
    "floor": Grid(lambda weight: torch.floor(weight * 10) / 10),
    "remainder": Grid(lambda weight: weight - torch.remainder(weight * 10, 1)),
    "divided": Grid(lambda weight: torch.div(weight, 0.1, rounding_mode="floor")),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_jumps_is_as_the_model_has_it(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these is another function in float64."""
    model = MODELS[name].eval()
    out = export(model, torch.randn(4, 3), out=tmp_path / "made.ebm", targets=["onnxruntime"], sampler=CONFIG)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    energy = model(x)
    (grad,) = torch.autograd.grad(energy.sum(), x)
    with load(out) as ebm:
        found = ebm.score(x.detach().numpy())
    np.testing.assert_allclose(found[0], energy.detach(), rtol=1e-4)
    np.testing.assert_allclose(found[1], grad, rtol=1e-3, atol=1e-3)
    said = [message for message in caplog.messages if message.startswith("in float64 this model has other gradients")]
    assert len(said) == 1
    with np.load(out / GOLDEN) as golden:  # else an engine that is far off would pass
        assert np.median(golden["reference_error"]) < 1e-4


class Mixed(nn.Module):
    """A parameter, and numbers that PyTorch makes of whole ones or of nothing: float32, whatever the parameter is."""

    def __init__(self, join: Callable[[Mixed], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("places", torch.arange(3))
        self.register_buffer("turns", torch.polar(torch.ones(3, 3), torch.randn(3, 3)))
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.join(self).T).sum(-1) + x.square().sum(-1)


OF_BOTH = {
    "quotient": lambda own: (own.places[:, None] / 7).expand(3, 3) @ own.weight,
    "root": lambda own: torch.diag(own.places.sqrt()) @ own.weight,
    "sine": lambda own: torch.bmm(torch.sin(own.places[:, None] * own.places)[None], own.weight[None])[0],
    "full": lambda own: nn.functional.linear(torch.full((3, 3), 0.3), own.weight),
    "mean of a mask": lambda own: ((own.places > 0).sum() / 3).expand(3, 3) @ own.weight,
    "kernel": lambda own: nn.functional.conv1d(own.weight[:, None], (own.places / 3)[None, None], padding=1)[:, 0],
    "added to": lambda own: torch.full((3, 3), 0.1).index_add(0, own.places, own.weight),
    "complex": lambda own: (torch.polar(own.weight.abs(), own.weight) @ own.turns).real,
}


@pytest.mark.parametrize("name", OF_BOTH)
def test_numbers_of_whole_ones_go_with_weights(name: str) -> None:
    model = Mixed(OF_BOTH[name])
    x = torch.randn(4, 3, requires_grad=True)
    energy = model(x)
    (grad,) = torch.autograd.grad(energy.sum(), x)
    traced = trace(make_energy(model, x.detach()))
    assert not any(constant.dtype in (torch.float64, torch.complex128) for constant in traced.constants.values())
    graph = lower(traced, "mixed")
    found = run(graph, {"x": x.detach().numpy(), "grad_scale": np.ones(4, np.float32)})
    np.testing.assert_allclose(found["energy"], energy.detach(), rtol=1e-5)
    np.testing.assert_allclose(found["grad"], grad, rtol=1e-4, atol=1e-5)


def test_nothing_is_said_of_a_model_whose_terms_cancel(caplog: pytest.LogCaptureFixture) -> None:
    """By its gradients alone it would pass for another function in float64; nothing in it is compared or cut, so nobody asks."""

    def energy(x: torch.Tensor) -> torch.Tensor:
        large = 1e6 * torch.tanh(x)
        return ((large + x).square() - large.square()).sum(1)

    made = make_energy(energy, torch.randn(4, 3))
    config = CONFIG.replace(step_size=1e-8)
    make_golden(made, config, jumps=trace(made).jumps)
    assert not caplog.messages
    make_golden(made, config, jumps=True)
    assert caplog.messages  # else this says nothing


def test_weights_are_rounded_once() -> None:
    """A scale that is made of three factors is as near to the float64 one as float32 can be."""
    factors = [torch.tensor(number) for number in (0.1, 0.3, 0.7)]
    exact = np.prod([factor.double().item() for factor in factors])

    def energy(x: torch.Tensor) -> torch.Tensor:
        return (x * (factors[0] * factors[1] * factors[2])).square().sum(1)

    constants = trace(make_energy(energy, torch.randn(2, 3))).constants.values()
    assert np.float32(exact) in [constant.item() for constant in constants if constant.numel() == 1]
