"""Energies whose chains come to rest: at the end a gradient is less than its own rounding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.known_scales import NOTHING_KNOWN

SAMPLERS = {
    "langevin": SamplerConfig(steps=120, step_size=0.02, temperature=0.0),
    "optimize": SamplerConfig(steps=400, step_size=0.02, sampler="optimize", momentum=0.8),
}
TARGETS = ("onnx", "onnxruntime", "openvino")
PRECISIONS = ("fp32", "fp16", "bf16")


class Net(nn.Module):
    """A perceptron whose inner numbers do not vanish where its gradient does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 30 * self.net(x).squeeze(1) + 6 * x.square().sum(1)


@pytest.fixture(scope="module", params=SAMPLERS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("descent") / f"{request.param}.ebm"
    config = SAMPLERS[request.param]
    return export(
        Net().eval(), torch.zeros(2, 4), out=out, targets=TARGETS, precisions=PRECISIONS, sampler=config, gate=None
    )


def test_every_engine_is_verified(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert {(entry["target"], entry["precision"], entry["status"]) for entry in manifest["artifacts"]} == {
        (target, precision, "verified") for target in TARGETS for precision in PRECISIONS
    }
    with np.load(bundle / "golden.npz") as golden:
        sizes = np.linalg.norm(golden["grad"], axis=2)
    assert np.median(sizes[-1]) < 1e-6 * np.median(sizes[0])  # else this says nothing


def test_the_scale_stops_where_low_types_still_have_room(bundle: Path) -> None:
    model = json.loads((bundle / "manifest.json").read_text())["model"]
    assert model["highest_scale"] == pytest.approx(2**4 * model["usual_scale"], rel=1e-5)
    with load(bundle, backend="onnxruntime", precision="fp16") as ebm:
        seen = []
        ebm.sample(6, seed=1, callback=lambda now: seen.append(now.grad_scale.max()))
    assert max(seen) == pytest.approx(model["highest_scale"])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_chains_in_low_types_end_where_those_in_float32_do(bundle: Path, backend: str, precision: str) -> None:
    with (
        load(bundle, backend=backend, precision="fp32") as exact,
        load(bundle, backend=backend, precision=precision) as low,
    ):
        ends = [ebm.sample(16, seed=2) for ebm in (exact, low)]
    off = np.linalg.norm(ends[1] - ends[0], axis=1)
    assert np.median(off) < (0.01 if precision == "fp16" else 0.08) * np.median(np.linalg.norm(ends[0], axis=1))


def test_colder_chains_stay_inside_the_ranges_of_int8(tmp_path: Path) -> None:
    """Their gradients are smaller than any that the ranges come from, and their inner numbers are not."""
    out = export(
        Net().eval(), torch.zeros(2, 4), out=tmp_path / "warm.ebm", targets=["openvino"], precisions=["fp32", "int8"],
        sampler=SamplerConfig(steps=100, step_size=0.005), gate=None,
    )  # fmt: skip
    with (
        load(out, backend="openvino", precision="fp32") as exact,
        load(out, backend="openvino", precision="int8") as low,
    ):
        cold = {"temperature": 0.001, "steps": 200}
        ends = exact.sample(64, seed=3, **cold)
        wanted = exact.score(ends)[1]

        def off() -> float:
            errors = np.linalg.norm(low.score(ends)[1] - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
            return float(np.median(errors))

        stopped = off()
        energy = exact.score(low.sample(64, seed=3, **cold))[0].mean() - exact.score(ends)[0].mean()
        assert low.engine.known_scales.highest < 0.2 / np.sqrt(np.square(wanted).mean())
        low.engine.known_scales = NOTHING_KNOWN
        going_on = off()
    assert stopped < 0.25 * going_on
    assert abs(energy) < 0.001  # FP32 lies 0.002 above the minimum
