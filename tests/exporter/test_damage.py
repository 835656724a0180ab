"""What a gate is for: engines that are damaged on purpose, as files that a library runs, at the default settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from ebm_export.calibration.compare import compare
from ebm_export.calibration.compare_options import CompareOptions
from ebm_export.calibration.gate import GateResult
from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig

SHARES = (0.85, 0.15)


class Wells(nn.Module):
    """Two wells, six standard deviations apart."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor([[-3.0, 0.0], [3.0, 0.0]]))
        self.register_buffer("logs", torch.tensor(SHARES).log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        away = (x[:, None] - self.centres).square().sum(2)
        return -(self.logs - away / 2).logsumexp(1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wells") / "wells.ebm"
    config = SamplerConfig(steps=60, step_size=0.1)
    return export(Wells().eval(), torch.zeros(4, 2), out=out, targets=["onnx"], sampler=config)


def on_the_gradient(graph: onnx.GraphProto, kind: str, by: np.ndarray) -> None:
    """One more operation behind the last."""
    for node in graph.node:
        node.output[:] = ["straight" if name == "grad" else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(by.astype(np.float32), "damage"))
    graph.node.append(helper.make_node(kind, ["straight", "damage"], ["grad"]))


def without_the_second_well(graph: onnx.GraphProto) -> None:
    """Its share becomes e^-40, wherever the graph reads it."""
    held = [
        value for value in graph.initializer if np.allclose(numpy_helper.to_array(value).ravel()[:2], np.log(SHARES))
    ]
    assert held
    for value in held:
        shares = numpy_helper.to_array(value).copy()
        shares.ravel()[1] = -40
        value.CopyFrom(numpy_helper.from_array(shares, value.name))


@pytest.fixture(scope="module")
def judged(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, GateResult]:
    """What `ebm-compare` finds of every damage, and of the file as it is, by name."""
    damages: dict[str, Callable[[onnx.GraphProto], None]] = {
        "whole": lambda graph: None,
        "too_long": lambda graph: on_the_gradient(graph, "Mul", np.array(1.02)),
        "too_short": lambda graph: on_the_gradient(graph, "Mul", np.array(0.98)),
        # 2 % of a gradient whose numbers have an rms of about one
        "pulled": lambda graph: on_the_gradient(graph, "Add", np.array([[0.0, 0.02 * np.sqrt(2)]])),
        "lost": without_the_second_well,
    }
    folder, candidates = tmp_path_factory.mktemp("damaged"), []
    for name, damage in damages.items():
        model = onnx.load(bundle / "score.fp32.onnx")
        damage(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{name}.onnx")
        candidates.append(f"{name}={folder / name}.onnx")
    found = compare(CompareOptions([bundle], candidates=candidates, batches=[1], rounds=1, sysfs=folder))
    return {engine.name: engine.gate for engine in found.engines if engine.gate is not None}


@pytest.mark.parametrize(
    ("name", "metric", "reason"),
    [
        ("too_long", "score gain", "score gain 0.02"),
        ("too_short", "score gain", "score gain 0.02"),
        ("pulled", "score bias", "score bias 0.0"),
        ("lost", "rare modes", r"rare modes: one has lost 100% of its mass"),
    ],
)
def test_damage_fails_with_its_name(judged: dict[str, GateResult], name: str, metric: str, reason: str) -> None:
    assert judged["whole"].passed, judged["whole"].reason
    result = judged[name]
    assert not result.passed and reason in result.reason, result.reason
    assert metric in {verdict.metric for verdict in result.verdicts if not verdict.passed}
