"""What is said of an engine that is off though every operation of its graph is right by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.golden import make_golden
from ebm_export.exporter.rules import elementwise
from ebm_export.exporter.score_graph import ScoreGraph
from ebm_export.exporter.trace import trace
from ebm_export.exporter.whole_graph import describe_whole
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.errors import EngineMismatch
from ebm_export.runtime.verify import StageResult, tolerance

CONFIG = SamplerConfig(steps=4, step_size=0.01)


def energy(x: torch.Tensor) -> torch.Tensor:
    return torch.hypot(x[:, :3], x[:, 3:]).sin().sum(1)


@pytest.fixture(scope="module")
def made() -> tuple[ScoreGraph, dict[str, np.ndarray]]:
    model = make_energy(energy, torch.randn(4, 6))
    return trace(model), make_golden(model, CONFIG)


@pytest.mark.parametrize(
    ("precision", "error", "text"),
    [
        ("fp32", 3e-4, "the roundings add up"),
        ("fp32", 0.3, "the backend's optimiser that breaks the whole"),
        ("bf16", 0.9, "the roundings add up"),
    ],
)
def test_of_a_graph_that_is_the_model(made, precision: str, error: float, text: str) -> None:
    worst = StageResult(0, 0, 1, relative_error=error, cosine=0.9, energy_error=0.0, passed=False)
    graph, golden = made
    rows = np.resize(np.arange(golden["x"].shape[1]), graph.batch)
    inputs = {name: golden[name][0][rows] for name in ("x", "grad_scale")}
    assert text in describe_whole(worst, precision, tolerance(precision), graph, golden, inputs)


def test_a_rule_of_ours_that_computes_something_else_is_owned_up_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(elementwise.RULES, torch.ops.aten.hypot.default, lambda a, b: a.abs() + b.abs())
    with pytest.raises(
        EngineMismatch, match=r"computes another function than the model: that is a mistake of ebm-export"
    ):
        export(energy, torch.randn(4, 6), out=tmp_path / "hypot.ebm", sampler=CONFIG)
