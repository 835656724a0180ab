"""What depends on conditions alone, in INT8 too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ebm_export.calibration.quantization.prologue import PrologueQuantizer
from ebm_export.calibration.verdict import GateResult
from ebm_export.exporter import export
from ebm_export.exporter.calibrated import CalibratedArtifacts
from ebm_export.exporter.mixed import _Trials
from ebm_export.exporter.targets import Artifact
from ebm_export.runtime import load
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.bundle import Bundle

from .calibrated_models import CONFIG, FEW, IMAGES, Seeing, pictures

pytestmark = pytest.mark.usefixtures("fewer_states")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        # So small a net is no faster in INT8.
        patch.setattr(_Trials, "milliseconds", lambda self, one: 1e-4 + 1e-6 * (one.kept + 0.5 * one.wide))
        return export(
            Seeing().eval(), torch.zeros(4, 4), cond={"image": IMAGES}, sampler=CONFIG, gate=1.5,
            smallest_difference=FEW, targets=["onnx", "openvino"], precisions=["fp32", "int8", "mixed"],
            out=tmp_path_factory.mktemp("policy") / "policy.ebm",
        )  # fmt: skip


class Placed(Seeing):
    """A policy that is told where each pixel is (Liu et al., "An intriguing failing of convolutional neural networks", NeurIPS 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder[0] = nn.Conv2d(5, 8, 3, 2, 1)
        place = torch.linspace(-1, 1, 16)
        self.register_buffer("places", torch.stack(torch.meshgrid(place, place, indexing="ij"))[None])

    def forward(self, action: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return super().forward(action, torch.cat([image, self.places.expand(len(image), -1, -1, -1)], 1))


class TestPrologue:
    """What depends on conditions alone is calibrated apart, from conditions, so that it runs once for each of them."""

    PATHS = ("score.int8.onnx", "score.int8.openvino.xml", "score.mixed.onnx", "score.mixed.openvino.xml")

    @pytest.mark.parametrize("path", ["score.int8.onnx", "score.int8.openvino.xml", "score.mixed.openvino.xml"])
    def test_engines_give_the_gradient_at_other_conditions(self, policy: Path, path: str) -> None:
        artifact = next(entry for entry in Bundle(policy).artifacts if entry.path == path)
        assert artifact.prologue
        _, precision, *_ = path.split(".")
        backend = "openvino" if "openvino" in path else "onnxruntime"
        generator = np.random.default_rng(0)
        x, image = (generator.random(shape, dtype=np.float32) for shape in ((64, 4), (64, 3, 16, 16)))
        with load(policy, backend=backend, precision="fp32") as exact:
            wanted = exact.score(x, image=image)[1]
        with load(policy, backend=backend, precision=precision) as low:
            found = low.score(x, image=image)[1]
        off = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        assert 0 < np.median(off) < 0.1

    @pytest.mark.parametrize("path", PATHS)
    def test_engines_have_the_gradient_of_pytorch(self, policy: Path, path: str) -> None:
        """Those included whose FP16 no CPU library computes in."""
        entries = {entry["path"]: entry for entry in Bundle(policy).manifest.verification}
        assert 0 < max(stage["relative_error"] for stage in entries[path]["stages"]) < 0.3

    @pytest.mark.parametrize("path", PATHS)
    def test_it_is_in_int8_and_passed(self, policy: Path, path: str) -> None:
        said = json.loads((policy / "calibration.json").read_text())
        assert said["states"]["conditions"] == {"image": 20}
        nodes = next(entry["nodes"] for entry in said["artifacts"] if entry["path"] == path)
        said_of_it = next(entry["prologue"] for entry in said["artifacts"] if entry["path"] == path)
        assert said_of_it == "int8: 3 of 3 layers"
        encoder = [node for node in nodes if node["module"].startswith("encoder")]
        assert [node["precision"] for node in encoder] == ["int8", "int8"]
        assert all(node["reason"].startswith("range ") for node in encoder)
        artifact = next(entry for entry in Bundle(policy).artifacts if entry.path == path)
        if path.endswith(".onnx"):
            graph = onnx.load(policy / str(artifact.prologue)).graph
            assert [node.op_type for node in graph.node].count("QuantizeLinear") >= 2
        else:
            assert (
                "; its prologue runs in INT8 (OpenVINO: 3 of 3)" in artifact.note
            )  # the layer's share is a product of its own
        entry = next(entry for entry in Bundle(policy).manifest.verification if entry["path"] == path)
        if "gate" in entry:
            gate = GateResult.from_dict(entry["gate"])
            bias = next(v for v in gate.verdicts if v.metric == "score bias by condition")
            assert gate.passed and 1e-4 < bias.value < 0.02

    def test_layers_stay_in_float32_until_it_passes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made, graphs = self.lowered(tmp_path, monkeypatch, ["", "score bias by condition 0.04", ""])
        assert graphs == [0, 3, 2]  # layers of the prologue in INT8, in each that was judged
        first, *others = sorted(made[:3], key=lambda node: node["precision"])
        assert first["precision"] == "fp32" and {node["precision"] for node in others} == {"int8"}
        assert first["reason"].startswith("alone it moves the features by ")
        assert first["reason"].endswith("; with it in INT8: score bias by condition 0.04")

    def test_one_that_never_passes_stays_as_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made, graphs = self.lowered(tmp_path, monkeypatch, ["", *(f"score gain {turn}" for turn in range(9))])
        assert graphs[:2] == [0, 3] and len(graphs) < 5
        assert {node["precision"] for node in made[:3]} == {"fp32"}
        self.stays(tmp_path, made, f"with it in INT8: score gain {len(graphs) - 2}")
        graph = onnx.load(tmp_path / "policy.ebm" / "prologue.int8.onnxruntime.onnx").graph
        assert "QuantizeLinear" not in {node.op_type for node in graph.node}

    def test_few_conditions_are_not_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made, graphs = self.lowered(tmp_path, monkeypatch, [""], images=IMAGES[:15])
        assert graphs == [0]
        self.stays(
            tmp_path,
            made,
            "what it rounds would bend a whole chain the same way, and only 16 real conditions or more, as --cond NAME=FILE.npy "
            "gives them, would show how much",
        )

    def test_little_work_is_not_worth_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made, graphs = self.lowered(tmp_path, monkeypatch, [""], steps=1000)
        assert graphs == [0]
        self.stays(tmp_path, made, "0.18% of the work of one chain, so nothing to gain")

    def test_layers_that_openvino_does_not_take_in_int8_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []
        told = {"judge.2/Gemm": "f32", "encoder.0/Conv": "f32", "judge.4/Gemm": "u8"}
        monkeypatch.setattr(OpenVinoEngine, "arithmetic_nodes", property(lambda self: told))
        path = export(
            Seeing().eval(), torch.zeros(4, 4), cond={"image": IMAGES}, sampler=CONFIG, gate=None,
            targets=["openvino"], precisions=["int8"], out=tmp_path / "policy.ebm",
            progress=lambda what, *now: done.append(what),
        )  # fmt: skip
        assert "measuring ranges" in done and not any("judging" in what for what in done)  # without a gate
        (entry,) = json.loads((path / "calibration.json").read_text())["artifacts"]
        assert {node["name"]: node["runs"] for node in entry["nodes"] if "runs" in node} == {
            "judge.2/Gemm": "fp32", "encoder.0/Conv": "fp32",
        }  # fmt: skip
        note = next(artifact.note for artifact in Bundle(path).artifacts if artifact.role == "score")
        assert "products in INT8 (judge.2/Gemm is INT8 in the file and runs in fp32" in note
        assert "(OpenVINO: 3 of 3; encoder.0/Conv is INT8 in the file and runs in fp32)" in note

    @pytest.mark.parametrize("candidate", [False, True])
    def test_a_layer_over_coordinates_of_pixels(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidate: bool
    ) -> None:
        """OpenVINO 2026.4.1 computes it beforehand and loses the grid's zero point. It is no layer to run in INT8, and where it was one, as
        others may be that an engine gets wrong, it would be found without a gate too."""
        if candidate:
            monkeypatch.setattr(PrologueQuantizer, "_why_float", lambda self, layer: None if layer.macs else "no work")
        path = export(
            Placed().eval(), torch.zeros(4, 4), cond={"image": IMAGES}, sampler=CONFIG, gate=None,
            targets=["openvino"], precisions=["fp32", "int8"], out=tmp_path / "policy.ebm",
        )  # fmt: skip
        (entry,) = json.loads((path / "calibration.json").read_text())["artifacts"]
        assert entry["prologue"].startswith("int8: ")
        found = {}
        for precision in ("fp32", "int8"):
            with load(path, backend="openvino", precision=precision) as ebm:
                made = ebm.engine.prepare({"image": pictures(64, 9).numpy()})
                found[precision] = next(array.copy() for array in made.values() if array.dtype == np.float32)
        exact = found["fp32"]
        off = np.sqrt(np.mean((found["int8"] - exact) ** 2)) / np.sqrt(np.mean((exact - exact.mean(axis=0)) ** 2))
        assert 0 < off < 0.2

    def stays(self, tmp_path: Path, made: list[dict[str, Any]], why: str) -> None:
        """The reason stands once in calibration.json, not at each layer, and in the engine's note."""
        assert {node["reason"] for node in made[:3]} == {"as all of the prologue"}
        (entry,) = json.loads((tmp_path / "policy.ebm" / "calibration.json").read_text())["artifacts"]
        assert entry["prologue"] == f"fp32: {why}"
        note = next(a.note for a in Bundle(tmp_path / "policy.ebm").artifacts if a.role == "score")
        assert note == f"its prologue stays in fp32 ({why})"

    def lowered(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        refusals: list[str],
        *,
        images: torch.Tensor = IMAGES,
        steps: int = CONFIG.steps,
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """What calibration.json says of the layers where the gate answers so, and layers of each prologue that it was asked for."""
        asked: list[int] = []
        answers = iter(refusals)

        def verdict(
            self: CalibratedArtifacts, artifact: Artifact, folder: Path, fidelity: object = None
        ) -> tuple[str, None]:
            nodes = onnx.load(folder / artifact["prologue"]["path"]).graph.node
            made = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
            asked.append(sum(node.op_type in ("Conv", "Gemm") and node.input[1] in made for node in nodes))
            return next(answers), None

        monkeypatch.setattr(CalibratedArtifacts, "verdict", verdict)
        path = export(
            Seeing().eval(), torch.zeros(4, 4), cond={"image": images}, sampler={**CONFIG.to_dict(), "steps": steps}, gate=None,
            targets=["onnxruntime"], precisions=["int8"], out=tmp_path / "policy.ebm",
        )  # fmt: skip
        return json.loads((path / "calibration.json").read_text())["artifacts"][0]["nodes"], asked
