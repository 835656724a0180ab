from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.export import export_energy
from ebm_export.exporter.golden import make_golden
from ebm_export.exporter.reference import Reference
from ebm_export.runtime import SamplerConfig

CONFIG = SamplerConfig(steps=20, step_size=0.01, noise=0.01)


class Gated(nn.Module):
    """A layer whose activation has a kink, or none."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.activation, self.last = nn.Linear(16, 1 << 15), activation, nn.Linear(1 << 15, 1)
        nn.init.zeros_(self.first.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.activation(self.first(x))).squeeze(1)


def golden(model: nn.Module, precisions: tuple[str, ...] = (), **options):
    return make_golden(make_energy(model, torch.zeros(2, 16), **options), CONFIG, precisions=precisions)


def test_answers_are_float64_autograd_at_the_states() -> None:
    model = Gated(nn.Tanh())
    found = golden(model)
    x = torch.tensor(found["x"][7], dtype=torch.float64, requires_grad=True)
    energy = model.double()(x)
    (grad,) = torch.autograd.grad(energy.sum(), x)
    np.testing.assert_allclose(found["energy"][7], energy.detach().numpy())
    np.testing.assert_allclose(found["grad"][7], grad.numpy())
    assert found["x"].shape == (12, 8, 16)


def test_float32_is_near_float64_where_nothing_jumps() -> None:
    found = golden(Gated(nn.Tanh()))
    assert found["reference_error"].max() < 3e-5
    assert found["reference_error"].min() > 0


def test_a_kink_shows_in_what_float32_may_be_off_by() -> None:
    smooth, kinked = golden(Gated(nn.Tanh())), golden(Gated(nn.ReLU()))
    assert kinked["reference_error"].max() > 20 * smooth["reference_error"].max()
    # The energy has no jump there.
    assert (kinked["reference_energy_error"] / (1 + np.abs(kinked["energy"]))).max() < 1e-4


def test_a_low_type_may_be_off_by_what_rounded_weights_and_kinks_are() -> None:
    low = ("bf16", "fp16")
    smooth, kinked = golden(Gated(nn.Tanh()), ("fp32", *low)), golden(Gated(nn.ReLU()), (*low, "int8"))
    for found in (smooth, kinked):
        assert {name for name in found if name.startswith("reference_error")} == {
            "reference_error", "reference_error.fp16", "reference_error.bf16"
        }  # fmt: skip
        sizes = [np.median(found[f"reference_error{name}"]) for name in ("", ".fp16", ".bf16")]
        assert 10 * sizes[0] < sizes[1] < sizes[2] / 2
    assert np.median(smooth["reference_error.bf16"]) < 0.02
    assert np.median(kinked["reference_error.bf16"]) > 3 * np.median(smooth["reference_error.bf16"])
    assert "reference_error.fp16" not in golden(Gated(nn.Tanh()), ("fp32", "int8"))


def test_curvature_is_no_kink() -> None:
    """Near a minimum a gradient is small, and copies of the state have others; an engine is asked at the state itself."""
    bowl = Gated(nn.Tanh())
    centre = nn.Parameter(torch.linspace(-0.5, 0.7, 16))
    energy = make_energy(lambda x: 5 * (x - centre).square().sum(1) + 0.01 * bowl(x), torch.zeros(2, 16))
    found = make_golden(energy, SamplerConfig(steps=60, step_size=0.05, noise=0.002), precisions=["bf16", "fp16"])
    lengths = np.linalg.norm(found["grad"].reshape(12, -1), axis=1)
    assert lengths[-1] < 0.05 * lengths[0]
    assert found["reference_error.bf16"].max() < 0.025


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_energy_that_ends_at_its_bounds(tmp_path: Path, precision: str) -> None:
    """Copies of its states stay inside."""

    def barrier(x: torch.Tensor) -> torch.Tensor:
        return -(0.05 * (torch.log(x) + torch.log(1 - x))).sum(1) + (x - 0.999).square().sum(1)

    config = SamplerConfig(steps=40, step_size=0.01, noise=0.05, bounds=(0.001, 0.999), init="uniform")
    energy = make_energy(barrier, torch.full((4, 6), 0.5), sampler=config)
    found = make_golden(energy, config, precisions=[precision])
    assert all(np.isfinite(array).all() for array in found.values())
    report = export_energy(energy, out=tmp_path / "b.ebm", targets=["openvino"], precisions=[precision])
    assert all(verification.passed for verification in report.verifications)


def test_weights_beyond_a_types_range_are_clipped_as_the_graphs_are() -> None:
    layer = nn.Linear(16, 1, bias=False)
    nn.init.constant_(layer.weight, 1e5)
    module = Reference(make_energy(layer, torch.zeros(2, 16)), torch.float32, weights=torch.float16)
    _, grad = module(np.ones((2, 16), np.float32))
    np.testing.assert_array_equal(grad, 65504)


@pytest.mark.parametrize("seed", [0, 1])
def test_networks_with_kinks_pass_in_low_types(tmp_path: Path, seed: int) -> None:
    """A few of their gradients are off by more than 5 %, as PyTorch's own are in these types."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 1),
    ]
    report = export_energy(
        make_energy(nn.Sequential(*layers).eval(), torch.randn(4, 1, 8, 8), sampler=SamplerConfig(steps=60, step_size=0.05)),
        out=tmp_path / "b.ebm", targets=["onnx", "onnxruntime", "openvino"], precisions=["fp16", "bf16"],
    )  # fmt: skip
    assert len(report.artifacts) == 6 and all(found.passed for found in report.verifications)
    assert max(stage.relative_error for found in report.verifications for stage in found.stages) > 0.05


def test_a_model_that_cannot_run_in_float64_is_judged_in_float32() -> None:
    class Single(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + (x.float() @ torch.ones(16, dtype=torch.float32)).to(x.dtype) * 0 + self.only(x)

        def only(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return 0 * x.sum(1)

    found = golden(Single(nn.Tanh()))
    assert (found["energy"] == found["energy"].astype(np.float32)).all()
