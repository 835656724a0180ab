"""What the options of an export say by themselves is said before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter.command import run_export
from ebm_export.exporter.targets import TARGETS
from ebm_export.runtime import EbmExportError, load

from ..runtime.tiny_bundle import write_bundle
from .test_export_options import options


class Curved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a[0] * x.square() + self.a[1] * x.sin()


def told(what: str, done: int, total: int) -> None:
    raise AssertionError(f"{what}: too late")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"precisions": ["mixed"], "no_gate": True},
            r"mixed needs the quality gate, .* leave gate=None \(--no-gate\) out",
        ),
        ({"weight_bits": 7}, r"weight_bits \(--weight-bits\) is of INT8 weights for OpenVINO, and there are none here"),
        ({"ranges": "mse"}, "nothing is calibrated here"),
        ({"search_seconds": 60.0, "precisions": ["int8"]}, r"\(--search-seconds\) is the time of the search for mixed"),
        ({"ranges": "max", "precisions": ["int8"]}, "ranges: expected one of .*, got 'max'"),
        ({"gate": 1.5}, r"--gate says how the quality gate judges samples, and nothing goes through it here"),
        ({"smallest_difference": 0.1}, "--smallest-difference says how the quality gate"),
        (
            {"smallest_difference": 0.1, "precisions": ["int8"], "no_gate": True},
            "--smallest-difference says how the quality gate",
        ),
        ({"targets": ["openvino"]}, "needs the package openvino"),
        ({"targets": ["tpu"]}, "there is none called 'tpu'"),
        ({"batch": "4:2:8"}, "MIN <= OPT <= MAX"),
        ({"precisions": ["int8"], "gate": 1.0}, "gate: expected a number above 1"),
        ({"precisions": ["int8"], "features": "pixel"}, "--features: there is no feature network pixel"),
        ({"precisions": ["int8"], "classes": Path("gone.onnx")}, "--classes: there is no classifier gone.onnx"),
        ({"calibration_data": Path("gone.npy")}, "--calibration-data: there is no file gone.npy"),
        ({"sampler": Path("gone.toml")}, "gone.toml cannot be read"),
        ({"sampler": Path("s.toml")}, "'step' is not a sampler setting; did you mean 'steps'"),
        ({"out": Path("old.ebm")}, "the bundle .*old.ebm exists: .* --force"),
        ({"out": Path("x.npy"), "force": True}, "x.npy exists and is not a bundle"),
    ],
)
def test_before_the_model_is_loaded(
    given: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TARGETS["openvino"], "available", lambda: "needs the package openvino: pip install X")
    write_bundle(tmp_path / "old.ebm")
    (tmp_path / "s.toml").write_text("step = 3\n")
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(EbmExportError, match=text):
        run_export(options(**given).with_files(None), told)
    with pytest.raises(AssertionError, match="loading m.pt: too late"):
        run_export(options(), told)


@pytest.mark.parametrize(
    "given",
    [
        {"gate": 1.5, "precisions": ["fp32", "bf16"]},
        {"smallest_difference": 0.1, "precisions": ["int8"]},
        {"smallest_difference": 0.1, "precisions": ["fp16"], "gate": 1.5},
    ],
)
def test_what_judges_samples_is_taken_where_some_are_judged(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="loading m.pt: too late"):
        run_export(options(**given), told)


def test_a_sample_of_one_number_has_an_empty_shape(tmp_path: Path) -> None:
    """As in --cond NAME=, and in Python: x is [B]."""
    torch.save(Curved(), tmp_path / "m.pt")
    settings = {"steps": 5, "step_size": 0.01}
    given = options(model=tmp_path / "m.pt", shape="", trust_pickle=True, out=tmp_path / "m.ebm", settings=settings)
    report, _ = run_export(given, lambda what, done, total: None)
    with load(report.path) as ebm:
        x = np.linspace(-1, 1, 5, dtype=np.float32)
        energy, grad = ebm.score(x)
    np.testing.assert_allclose(energy, x**2 + 2 * np.sin(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, 2 * x + 2 * np.cos(x), rtol=1e-5, atol=1e-6)
