"""FP16 and BF16 before the gate of an export, the graphs that TensorRT's plans are built from among them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.calibration.metrics.features import OnnxFeatures, score_graph_features
from ebm_export.calibration.verdict import GateResult
from ebm_export.exporter import export
from ebm_export.exporter.time_to_judge import seconds_to_draw
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import LoadError, QualityGateError, UsageError

from ..calibration.test_sample_networks import linear

CONFIG = SamplerConfig(steps=20, step_size=0.2, temperature=0.5)
FEW = 0.5
"""A smallest difference of half a standard deviation takes the fewest chains, 128."""
EXAMPLE = torch.zeros(4, 4)


class Scaled(nn.Module):
    """A bowl behind three layers that scale by the same factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
        for layer in self.layers:
            layer.weight.data = factor * torch.eye(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.layers(x).square().sum(1)


KIND, UNKIND = 1.0, 1.0038
"""BF16 has both as 1. The gradient, which is scaled six times, is then 2.3 % too short: half of what the verification lets pass."""


class Large(nn.Module):
    """A bowl between whose layers numbers lie above 65504, the largest of FP16, from |x| = 1.1 on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.first.weight.data, self.last.weight.data = 6e4 * torch.eye(4), torch.eye(4) / 6e4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.last(self.first(x)).square().sum(1)


def gated(entries: Path) -> dict[str, GateResult]:
    """The verdicts of a bundle, by path."""
    said = Bundle(entries).manifest.verification
    return {entry["path"]: GateResult.from_dict(entry["gate"]) for entry in said if "gate" in entry}


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_score_that_bf16_bends_is_refused(tmp_path: Path, target: str) -> None:
    more = {"targets": [target], "precisions": ["fp32", "bf16"], "sampler": CONFIG, "smallest_difference": FEW}
    with pytest.raises(
        QualityGateError, match=rf"score.bf16.{target}\S* fails the quality gate: score gain 0.02"
    ) as caught:
        export(Scaled(UNKIND).eval(), EXAMPLE, out=tmp_path / "bent.ebm", gate_all=True, **more)
    assert caught.value.exit_code == 6
    bent = Bundle(tmp_path / "bent.ebm")
    (kept,) = bent.artifacts
    assert kept.precision == "fp32" and [entry["path"] for entry in bent.manifest.verification] == [kept.path]
    assert not list((tmp_path / "bent.ebm").glob("*bf16*"))
    path = export(Scaled(UNKIND).eval(), EXAMPLE, out=tmp_path / "not judged.ebm", gate=None, **more)
    assert not gated(path), "without the gate nothing is judged, and the verification lets it pass"
    path = export(Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "kind.ebm", gate_all=True, **more)
    (result,) = gated(path).values()
    assert result.passed and result.chains >= 128 and {"energy", "score gain"} <= {v.metric for v in result.verdicts}


LOW = {"targets": ["openvino"], "precisions": ["fp32", "bf16"], "smallest_difference": FEW}


@pytest.fixture
def takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the samples would take three minutes."""
    monkeypatch.setattr("ebm_export.exporter.low_gate.seconds_to_draw", lambda *args, **kinds: 180.0)


@pytest.fixture
def takes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the samples is timed, and would take no longer than that on any machine."""
    monkeypatch.setattr(
        "ebm_export.exporter.low_gate.seconds_to_draw", lambda *args, **kinds: min(seconds_to_draw(*args, **kinds), 1.0)
    )


def note(path: Path) -> str:
    """What a bundle says of its BF16 engine."""
    (found,) = (artifact.note for artifact in Bundle(path).artifacts if artifact.precision == "bf16")
    return found


def test_what_is_judged_quickly_is_judged_unasked(tmp_path: Path, takes_a_second: None) -> None:
    with pytest.raises(QualityGateError, match=r"score.bf16.openvino.xml fails the quality gate: score gain 0.02"):
        export(Scaled(UNKIND).eval(), EXAMPLE, out=tmp_path / "bent.ebm", sampler=CONFIG, **LOW)
    path = export(Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "kind.ebm", sampler=CONFIG, **LOW)
    (result,) = gated(path).values()
    assert result.passed and "not judged" not in note(path)


def test_what_takes_long_is_judged_where_that_is_asked_for(tmp_path: Path, takes_long: None) -> None:
    path = export(Scaled(UNKIND).eval(), EXAMPLE, out=tmp_path / "bent.ebm", sampler=CONFIG, **LOW)
    assert not gated(path) and "its samples were not judged: that takes about 3 minutes here; --gate 1.25" in note(path)
    with pytest.raises(QualityGateError, match="score gain"):
        export(
            Scaled(UNKIND).eval(), EXAMPLE, out=tmp_path / "bent.ebm", sampler=CONFIG, gate_all=True, force=True, **LOW
        )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sampler": CONFIG, "verify": False}, "its samples were not judged: it was not run"),
        ({"sampler": CONFIG.replace(sampler="optimize", temperature=0.0)}, "its chains come to rest"),
        ({"sampler": None}, "the model came without sampler settings"),  # those that were found are no model's own
    ],
)
def test_unasked_nothing_is_judged_where_that_says_little(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    path = export(Scaled(UNKIND).eval(), EXAMPLE, out=tmp_path / "bent.ebm", **LOW, **more)
    assert not gated(path) and said in note(path)


class Leaving(nn.Module):
    """A bowl within |x|^2 = 11, which one start of forty lies beyond: from there chains leave."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = x.square().sum(1)
        return 0.5 * far - 1e4 * (far - 11.0).relu() ** 3


def test_unasked_an_fp32_whose_chains_diverge_is_no_failure_of_bf16(tmp_path: Path, takes_a_second: None) -> None:
    path = export(Leaving().eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=CONFIG, **LOW)
    assert not gated(path) and re.search(
        r"its samples were not judged: \d+ of \d+ chains have an energy, .* not finite", note(path)
    )


def test_without_the_packages_nothing_is_judged_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ebm_export.calibration.metrics.scientific", raising=False)
    monkeypatch.delattr("ebm_export.calibration.metrics.scientific", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    path = export(Scaled(UNKIND).eval(), EXAMPLE, out=tmp_path / "bent.ebm", sampler=CONFIG, **LOW)
    assert not gated(path) and "pip install 'ebm-export[calibration]'" in note(path)


def test_the_minute_is_that_of_all_engines_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebm_export.exporter.low_gate.seconds_to_draw", lambda *args, **kinds: 40.0)
    more = LOW | {"targets": ["onnxruntime", "openvino"]}
    path = export(Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "kind.ebm", sampler=CONFIG, **more)
    assert set(gated(path)) == {"score.bf16.onnxruntime.onnx"}
    said = {artifact.path: artifact.note for artifact in Bundle(path).artifacts}
    assert "that takes about 1 minute more here" in said["score.bf16.openvino.xml"]


def test_fp32_alone_imports_nothing_that_judges(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from ebm_export.exporter import export; "
        f"export(torch.nn.Sequential(torch.nn.Linear(4, 1)).eval(), torch.zeros(4, 4), out={str(tmp_path / 'm.ebm')!r}, "
        "sampler={'steps': 3}); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fp16_that_overflows_is_refused_and_no_plan_is_built_from_it(tmp_path: Path) -> None:
    """The verification would say so first; without it the gate alone can."""
    with pytest.raises(
        QualityGateError, match="no tensorrt plan in fp16: the ONNX file that it is built from failed"
    ) as caught:
        export(
            Large().eval(), EXAMPLE, out=tmp_path / "large.ebm", targets=["tensorrt"], precisions=["fp32", "fp16"],
            sampler=CONFIG, smallest_difference=FEW, gate_all=True, verify=False,
        )  # fmt: skip
    assert "score.fp16.onnx fails the quality gate: " in str(caught.value)
    assert caught.value.exit_code == 6
    assert {artifact.precision for artifact in Bundle(tmp_path / "large.ebm").artifacts} == {"fp32"}


def test_the_manifest_has_the_verdict_without_a_comparison_with_pytorch_too(tmp_path: Path) -> None:
    path = export(
        Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "kind.ebm", targets=["onnx", "openvino"], precisions=["fp32", "bf16"],
        sampler=CONFIG, smallest_difference=FEW, gate_all=True, verify=False,
    )  # fmt: skip
    assert set(gated(path)) == {"score.bf16.onnx", "score.bf16.openvino.xml"}
    assert all(result.passed and result.chains >= 128 for result in gated(path).values())
    for entry in Bundle(path).manifest.verification:  # and says nothing of what nobody looked at
        assert set(entry) == {"path", "precision", "gate", "compared_by"} and entry["precision"] == "bf16"
    said = {artifact.path: artifact.status for artifact in Bundle(path).artifacts}
    assert {name: status == "judged, not compared" for name, status in said.items()} == {
        name: "bf16" in name for name in said
    }
    assert {status for name, status in said.items() if "fp32" in name} == {"built, not run"}
    with pytest.raises(
        LoadError, match="has nothing verified in bf16 .*not score.bf16.openvino.xml on openvino: judged, not compared"
    ):
        load(path, precision="bf16")
    with load(path, "openvino", "bf16") as ebm:
        assert "NOT verified (judged, not compared): the bundle holds no answers of PyTorch" in ebm.choice


def test_a_prologue_ran_with_what_was_judged_and_several_steps_did_not(tmp_path: Path) -> None:
    path = export(
        Encoding().eval(), EXAMPLE, cond={"goal": torch.randn(16, 2)}, out=tmp_path / "n.ebm", targets=["openvino"],
        precisions=["fp32", "bf16"], sampler=CONFIG, smallest_difference=0.25, gate_all=True, verify=False, fuse=2,
    )  # fmt: skip
    said = {artifact.role: artifact.status for artifact in Bundle(path).artifacts if artifact.precision == "bf16"}
    assert said == {"score": "judged, not compared", "prologue": "judged, not compared", "sampler": "built, not run"}


def test_every_target_that_runs_or_is_emulated_is_judged_and_a_plan_is_not(tmp_path: Path) -> None:
    path = export(
        Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "kind.ebm", targets=["tensorrt", "onnxruntime", "openvino"],
        precisions=["fp32", "fp16", "bf16"], sampler=CONFIG, smallest_difference=FEW, gate_all=True,
    )  # fmt: skip
    written = {artifact.path for artifact in Bundle(path).artifacts if artifact.precision != "fp32"}
    assert written - set(gated(path)) == {"score.fp16.tensorrt.plan", "score.bf16.tensorrt.plan"}
    assert {"score.fp16.onnx", "score.bf16.onnx"} <= set(gated(path))


class Encoding(nn.Module):
    """What it makes of a goal does not depend on x."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.goal, self.last = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 4)), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return 0.1 * self.last((x + self.goal(goal)).tanh()).squeeze(1) + 0.5 * x.square().sum(1)


class Seeing(nn.Module):
    """What it sees in x and a goal has three numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 3), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(torch.cat([x, goal], 1)).tanh()).squeeze(1) + 0.5 * x.square().sum(1)


@pytest.mark.parametrize("features", ["model", "file"])
def test_samples_are_compared_by_features_and_their_modes_are_classes(tmp_path: Path, features: str) -> None:
    classes = linear(tmp_path / "sides.onnx", np.array([[1.0, -1], [0, 0], [0, 0], [0, 0]]))
    width = {"model": 3, "file": 2}[features]
    if features == "file":
        features = str(linear(tmp_path / "features.onnx", np.eye(4)[:, :2]))
    path = export(
        Seeing().eval(), EXAMPLE, cond={"goal": torch.randn(16, 2)}, out=tmp_path / "n.ebm", targets=["openvino"],
        precisions=["fp32", "bf16"], sampler=CONFIG, smallest_difference=0.25, gate_all=True, features=features, classes=classes,
    )  # fmt: skip
    (said,) = (entry["compared_by"] for entry in Bundle(path).manifest.verification if "gate" in entry)
    of = "the score graph's own features" if features == "model" else "the features of features.onnx"
    assert said == f"{of}, their modes being the classes of sides.onnx"
    (result,) = gated(path).values()
    notes = {verdict.metric: verdict.note for verdict in result.verdicts}
    assert notes["modes"] == "2 modes" and notes["frechet"] == f"{width} components"


def test_the_graph_with_the_models_features_is_held_beside_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the bundle's folder, which is on a disk with room for it, and gone if the export is killed."""
    held: list[Path] = []

    def watched(network: Path, **options: Any) -> OnnxFeatures:
        held.append(network)
        return score_graph_features(network, **options)

    monkeypatch.setattr("ebm_export.calibration.sample_networks.score_graph_features", watched)
    path = export(
        Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "bundles" / "n.ebm", targets=["openvino"], precisions=["fp32", "bf16"],
        sampler=CONFIG, smallest_difference=FEW, gate_all=True, features="model",
    )  # fmt: skip
    (graph,) = held
    assert graph.is_relative_to(tmp_path / "bundles") and not graph.parent.exists()
    assert not [entry for entry in path.iterdir() if entry.is_dir()] and not list(path.rglob("score.onnx"))


@pytest.mark.parametrize("more", [{"precisions": ["fp32"]}, {"precisions": ["int8"], "gate": None}])
@pytest.mark.parametrize("asked", [{"features": "model"}, {"classes": "c.onnx"}])
def test_features_without_a_gate_are_refused(tmp_path: Path, more: dict[str, Any], asked: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="are what the gate compares samples by, and nothing goes through it here"):
        export(Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=CONFIG, **more, **asked)


def test_features_have_bf16_judged_whatever_time_that_takes(tmp_path: Path, takes_long: None) -> None:
    path = export(
        Seeing().eval(), EXAMPLE, cond={"goal": torch.randn(16, 2)}, out=tmp_path / "n.ebm", targets=["openvino"],
        precisions=["bf16"], sampler=CONFIG, smallest_difference=0.25, features="model",
    )  # fmt: skip
    assert set(gated(path)) == {"score.bf16.openvino.xml"}


def test_both_ways_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gate_all asks for the gate and gate=None turns it off"):
        export(Scaled(KIND).eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=CONFIG, gate=None, gate_all=True)
