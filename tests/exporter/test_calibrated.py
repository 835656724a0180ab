"""INT8 and mixed exports: what is written, what the gate refuses, and what a killed search goes on from."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import openvino
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from ebm_export.calibration import layer_order
from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.quality_gate import QualityGate
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.score_error import gradients
from ebm_export.calibration.search import Assignment
from ebm_export.calibration.search_log import SearchLog
from ebm_export.calibration.sensitivity import Sensitivity
from ebm_export.calibration.verdict import GateResult
from ebm_export.exporter import calibrated, export, target_scheme
from ebm_export.exporter.agreement import agrees
from ebm_export.exporter.calibrated import CalibratedArtifacts
from ebm_export.exporter.conditions import Conditions, split_conditions
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.export import export_energy
from ebm_export.exporter.gating import gating_for
from ebm_export.exporter.int8 import write_int8
from ebm_export.exporter.manifest import model_spec
from ebm_export.exporter.mixed import _subject, _Trials
from ebm_export.exporter.target_scheme import SchemeSearch, plain_scheme
from ebm_export.exporter.targets import Artifact, tensorrt
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.openvino_saturation import has_large_weights, saturates
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import QualityGateError, UnsupportedOperation, UsageError
from ebm_export.runtime.verify_bundle import verify_bundle

from .referee import score_graph

SHAPE = (2, 8, 8)
CONFIG = SamplerConfig(steps=8, step_size=0.1, temperature=0.1)
FEW = 0.5
"""A smallest difference of half a standard deviation takes the fewest chains, 128."""


class Residual(nn.Module):
    """A residual net over a bowl: samples spread around its minima at a temperature of 0.1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.stem = nn.Conv2d(2, 16, 3, padding=1)
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.down, self.head = nn.Conv2d(16, 24, 3, 2, 1), nn.Linear(24, 1)
        for conv in (self.stem, self.first, self.second, self.down):
            conv.weight.data *= 2  # so that the net pulls about as hard as the bowl

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.stem(x))
        h = F.silu(h + self.second(F.silu(self.first(h))))
        h = F.silu(self.down(h))
        return 80 * self.head(h.mean((2, 3))).squeeze(1) + 0.5 * x.square().sum((1, 2, 3))


class Windows(nn.Module):
    """Convolutions over a signal, one with windows of four numbers that do not overlap, over a bowl."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.wide = nn.Conv1d(1, 32, 7, padding=3), nn.Conv1d(32, 32, 5, padding=2)
        self.windows, self.head = nn.Conv1d(32, 64, 4, 4), nn.Linear(64 * 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.windows(F.silu(self.wide(F.silu(self.stem(x))))))
        return 8 * self.head(h.flatten(1)).squeeze(1) + 0.5 * x.square().sum((1, 2))


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"out": tmp_path / "net.ebm", "sampler": CONFIG, "smallest_difference": FEW, **more}


@pytest.fixture(autouse=True, scope="module")
def _fewer_states() -> Iterator[None]:
    """A quarter of the states and chains serve for a net this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated, "_CHAINS", 256)
        patch.setattr(calibrated, "_STATES", (256, 256))
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8 for every target, with the gate."""
    folder = tmp_path_factory.mktemp("int8")
    targets = ["onnx", "onnxruntime", "openvino", "tensorrt"]
    more = options(folder, targets=targets, precisions=["fp32", "int8"])
    return export(Residual().eval(), torch.randn(4, *SHAPE), **more)


class TestInt8:
    def test_every_target_is_written_and_judged_where_it_runs(self, bundle: Path) -> None:
        status = {entry.path: entry.status for entry in Bundle(bundle).artifacts if entry.precision == "int8"}
        assert status == {
            "score.int8.onnx": "verified",
            "score.int8.onnxruntime.onnx": "verified",
            "score.int8.openvino.xml": "verified",
            "score.int8.tensorrt.plan": "built, not run",
        }
        judged = {entry["path"]: entry for entry in Bundle(bundle).manifest.verification if "gate" in entry}
        assert set(judged) == {path for path, said in status.items() if said == "verified"}
        for entry in judged.values():
            gate = GateResult.from_dict(entry["gate"])
            assert gate.passed and gate.chains >= 128 and {"energy", "score gain"} <= {v.metric for v in gate.verdicts}

    def test_gradients_are_close_and_not_float(self, bundle: Path) -> None:
        x = np.random.default_rng(0).standard_normal((16, *SHAPE)).astype(np.float32)
        with load(bundle, backend="openvino", precision="fp32") as exact:
            _, wanted = exact.score(x)
        for backend in ("onnxruntime", "openvino"):
            with load(bundle, backend=backend, precision="int8") as ebm:
                _, grad = ebm.score(x)
            error = np.linalg.norm(grad - wanted) / np.linalg.norm(wanted)
            assert 1e-4 < error < 0.05, backend  # INT8 it is, and a good one

    def test_calibration_says_which_layers_and_why(self, bundle: Path) -> None:
        said = json.loads((bundle / "calibration.json").read_text())
        assert said["states"]["count"] >= 256
        nodes = {entry["path"]: {node["name"]: node for node in entry["nodes"]} for entry in said["artifacts"]}
        assert set(nodes) == {"score.int8.onnx", "score.int8.onnxruntime.onnx", "score.int8.openvino.xml"}
        for path, layers in nodes.items():
            assert "reads the state" in layers["stem/Conv"]["reason"], path
            assert "writes the gradient" in layers["stem/grad/Conv"]["reason"], path
            inside = [layer for layer in layers.values() if layer["precision"] == "int8"]
            assert {layer["half"] for layer in inside} == {"forward", "gradient"}
        # TensorRT takes symmetric grids alone, and builds from the ONNX file.
        assert all(node["zero_point"] == 0 for node in nodes["score.int8.onnx"].values() if "zero_point" in node)
        assert any(node["zero_point"] for node in nodes["score.int8.openvino.xml"].values() if "zero_point" in node)

    def test_biases_stay_float_and_weights_are_int8(self, bundle: Path) -> None:
        graph = onnx.load(bundle / "score.int8.onnx").graph
        kinds = {value.name: value.data_type for value in graph.initializer}
        made_by = {output: node for node in graph.node for output in node.output}
        quantized = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in made_by]
        assert len(quantized) >= 5
        for node in quantized:
            weight = made_by[node.input[1]]
            assert weight.op_type == "DequantizeLinear" and kinds[weight.input[0]] == onnx.TensorProto.INT8
            assert len(node.input) < 3 or kinds[node.input[2]] == onnx.TensorProto.FLOAT

    def test_weights_do_not_overflow_on_the_cpu_that_exports(self, bundle: Path) -> None:
        """A CPU without VNNI needs smaller ones for OpenVINO; for TensorRT, which runs elsewhere, they use the whole range."""
        graph = onnx.load(bundle / "score.int8.onnx").graph
        weights = [numpy_helper.to_array(held) for held in graph.initializer if held.data_type == onnx.TensorProto.INT8]
        assert max(np.abs(held.astype(int)).max() for held in weights if held.ndim > 1) == 127
        model = openvino.Core().read_model(bundle / "score.int8.openvino.xml")
        assert has_large_weights(model) == (not saturates())

    @pytest.mark.parametrize(
        ("name", "bits", "overflows", "largest"),
        [
            ("openvino", None, True, 64),
            ("openvino", None, False, 127),
            ("openvino", 7, False, 64),
            ("openvino", 8, True, 127),
            ("onnx", None, True, 127),
            ("onnx", 7, True, 127),
        ],
    )
    def test_smaller_weights_where_products_overflow(
        self, name: str, bits: int | None, overflows: bool, largest: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(target_scheme, "saturates", lambda: overflows)
        assert plain_scheme(name, bits, "mse").largest_weight == largest

    @pytest.mark.parametrize("bits", [7, 8])
    def test_weights_have_the_bits_that_were_asked_for(self, tmp_path: Path, bits: int) -> None:
        more = options(tmp_path, targets=["openvino"], precisions=["int8"], gate=None, weight_bits=bits)
        path = export(Residual().eval(), torch.randn(4, *SHAPE), **more)
        assert has_large_weights(openvino.Core().read_model(path / "score.int8.openvino.xml")) == (bits == 8)
        said = "with weights of 7 bits" in Bundle(path).artifacts[0].note
        assert said == (bits == 7)
        with load(path, backend="openvino", precision="int8") as ebm:  # right on every CPU
            _, grad = ebm.score(np.ones((2, *SHAPE), np.float32))
        wanted = torch.ones(2, *SHAPE, requires_grad=True)
        Residual().eval()(wanted).sum().backward()
        assert np.linalg.norm(grad - wanted.grad.numpy()) < 0.05 * np.linalg.norm(grad)

    def test_other_bits_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="weights have 7 or 8 bits, not 4"):
            export(Residual().eval(), torch.randn(4, *SHAPE), **options(tmp_path, weight_bits=4))

    def test_ranges_are_chosen_as_was_asked_for(self, tmp_path: Path) -> None:
        """The widest is that of the numbers seen; mse clips some of them off."""
        found = {}
        for ranges in ("mse", "min-max"):
            more = options(tmp_path, targets=["onnx"], precisions=["int8"], gate=None, ranges=ranges, force=True)
            path = export(Residual().eval(), torch.randn(4, *SHAPE), **more)
            said = json.loads((path / "calibration.json").read_text())["artifacts"][0]["nodes"]
            found[ranges] = np.array([node["scale"] for node in said if node["precision"] == "int8"])
        assert (found["mse"] <= found["min-max"] * 1.0001).all() and (found["mse"] < 0.95 * found["min-max"]).any()

    def test_other_ranges_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="ranges: expected one of min-max, percentile, mse, entropy, got 'max'"):
            export(Residual().eval(), torch.randn(4, *SHAPE), **options(tmp_path, ranges="max"))

    def test_a_device_checks_int8_against_what_was_measured(self, bundle: Path) -> None:
        rows = {row["file"]: row for row in verify_bundle(bundle, precision="int8")}
        assert rows["score.int8.openvino.xml"]["result"] == "passed"
        assert "as where it was exported" in rows["score.int8.openvino.xml"]["note"]

    def test_without_the_gate_it_is_not_called_verified(self, tmp_path: Path) -> None:
        path = export(Residual().eval(), torch.randn(4, *SHAPE), **options(tmp_path, precisions=["int8"], gate=None))
        (artifact,) = Bundle(path).artifacts
        assert artifact.status == "run, not judged"

    def test_a_graph_without_layers_is_refused(self, tmp_path: Path) -> None:
        def bowl(x: torch.Tensor) -> torch.Tensor:
            return x.square().sum(1)

        more = options(tmp_path, precisions=["fp32", "int8"], sampler=SamplerConfig(steps=4, step_size=0.1))
        with pytest.raises(QualityGateError, match="has no layer that would gain from INT8.*the others were written"):
            export(bowl, torch.randn(4, 3), **more)
        assert [artifact.precision for artifact in Bundle(tmp_path / "net.ebm").artifacts] == ["fp32"]


class TestRefused:
    def test_an_engine_with_the_scales_of_one_layer_doubled(self, bundle: Path, tmp_path: Path) -> None:
        """Each layer in turn, of both halves, its weights and what it reads, at the default settings of the gate."""
        opened, file = Bundle(bundle), tmp_path / "damaged.onnx"
        whole = onnx.load(bundle / "score.int8.onnx")
        held = {value.name for value in whole.graph.initializer}
        places = [node.name for node in whole.graph.node if node.op_type == "DequantizeLinear"]
        assert len(places) == 12 and sum("grad" in place for place in places) == 6  # six layers
        passed = []
        with OnnxRuntimeEngine(bundle / "score.fp32.onnx", precision="fp32") as exact:
            gate = QualityGate(exact, opened.model, opened.sampler, GateRules())
            for place in ["", *places]:
                damaged = onnx.ModelProto()
                damaged.CopyFrom(whole)
                for node in damaged.graph.node:
                    if node.name == place:
                        (scales,) = (value for value in whole.graph.initializer if value.name == node.input[1])
                        node.input[1] = "doubled"
                        damaged.graph.initializer.append(
                            numpy_helper.from_array(2 * numpy_helper.to_array(scales), "doubled")
                        )
                onnx.save(damaged, file)
                with OnnxRuntimeEngine(file, precision="int8") as engine:
                    fidelity = gate.fidelity(engine)
                    if not gate.refused_by_score(fidelity) and gate.judge(place, engine, fidelity=fidelity).passed:
                        passed.append(place)
        assert "doubled" not in held and passed == [""], "only the engine without damage passes"

    def test_what_never_passes_ends_with_the_reason(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = QualityGate.fidelity

        def bent(self: QualityGate, engine: Any) -> Any:
            return tuple(dataclasses.replace(stage, gain=0.05, gain_error=1e-4) for stage in honest(self, engine))

        monkeypatch.setattr(QualityGate, "fidelity", bent)
        more = options(tmp_path, targets=["onnxruntime"], precisions=["fp32", "int8"])
        with pytest.raises(
            QualityGateError, match=r"int8 for onnxruntime fails the quality gate: score gain 0.05"
        ) as caught:
            export(Residual().eval(), torch.randn(4, *SHAPE), **more)
        assert caught.value.exit_code == 6
        assert [artifact.path for artifact in Bundle(tmp_path / "net.ebm").artifacts] == ["score.fp32.onnxruntime.onnx"]
        assert sorted(path.name for path in (tmp_path / "net.ebm").iterdir()) == [
            "golden.npz",
            "manifest.json",
            "score.fp32.onnxruntime.onnx",
        ]


class TestScheme:
    def artifacts(self, folder: Path, told: list[str]) -> CalibratedArtifacts:
        energy = make_energy(Residual().eval(), torch.randn(4, *SHAPE), sampler=CONFIG)
        return CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, folder, None, Conditions({}, {}, True), None, (1, 8, 8), True, None,
            lambda what, done, total: told.append(what),
        )  # fmt: skip

    def test_the_first_where_the_engine_is_right(self, tmp_path: Path) -> None:
        told: list[str] = []
        with self.artifacts(tmp_path, told) as made:
            for name in ("openvino", "onnxruntime", "onnx"):
                assert made.scheme(name).evens == ("forward", "gradient")
            assert made.scheme("onnx").fuses_sums and not made.scheme("openvino").fuses_sums
        assert not [what for what in told if "something else" in what]

    def test_an_engine_that_does_not_compute_its_graph(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One whose gradients are half too long where channels are evened out."""
        told: list[str] = []
        run = OnnxRuntimeEngine.run

        def wrong(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            answer = dict(run(self, inputs))
            if b".evened" in self.path.read_bytes():
                answer["grad"] = 1.5 * answer["grad"]
            return answer

        monkeypatch.setattr(OnnxRuntimeEngine, "run", wrong)
        with self.artifacts(tmp_path, told) as made:
            assert made.scheme("onnxruntime").evens == ()
        assert told.count("onnxruntime computes something else than its INT8 graph: trying another form") == 2

    def test_a_layer_that_the_engine_gets_wrong_stays_in_float32(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One whose gradients are half too long where a certain layer is in INT8."""
        told: list[str] = []
        run = OnnxRuntimeEngine.run

        def wrong(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            answer = dict(run(self, inputs))
            if b"second/Conv.weight.dequantize" in self.path.read_bytes():
                answer["grad"] = 1.5 * answer["grad"]
            return answer

        monkeypatch.setattr(OnnxRuntimeEngine, "run", wrong)
        with self.artifacts(tmp_path, told) as made:
            scheme = made.scheme("onnxruntime")
            assert scheme.wrong == ("second/Conv",) and scheme.evens == ("forward", "gradient")
            written = write_int8(made, "onnxruntime", tmp_path)
        assert "onnxruntime gets 1 of 6 layers wrong in INT8 and keeps them in float32: second/Conv" in told
        nodes = {node["name"]: node for node in written.layers}
        assert nodes["second/Conv"]["precision"] == "fp32" and nodes["first/Conv"]["precision"] == "int8"
        assert "computes something else" in nodes["second/Conv"]["reason"]

    def test_an_engine_that_gets_too_much_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One whose gradients are half too long with any layer in INT8."""
        run = OnnxRuntimeEngine.run

        def wrong(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            answer = dict(run(self, inputs))
            if b".dequantize" in self.path.read_bytes():
                answer["grad"] = 1.5 * answer["grad"]
            return answer

        monkeypatch.setattr(OnnxRuntimeEngine, "run", wrong)
        with (
            self.artifacts(tmp_path, []) as made,
            pytest.raises(QualityGateError, match="something else than its INT8 graph in each of 3 forms"),
        ):
            made.scheme("onnxruntime")

    def test_windows_of_four_numbers_in_a_row(self, tmp_path: Path) -> None:
        """OpenVINO 2026.4.1 gets these convolutions wrong in INT8 on CPUs with AMX, if they are written as they are."""
        energy = make_energy(Windows().eval(), torch.randn(4, 1, 64), sampler=CONFIG)
        with CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, tmp_path, None, Conditions({}, {}, True), None, (1, 8, 8), True, None,
            lambda what, done, total: None,
        ) as made:  # fmt: skip
            folder = tmp_path / "written"
            folder.mkdir()
            written = write_int8(made, "openvino", folder)
            assert made.latest is not None
            with made.open(written.artifact, folder) as engine:
                assert agrees(engine, made.latest, made.steps, made.states, batch=8)
            in_int8 = {node["name"] for node in written.layers if node["precision"] == "int8"}
            assert {"wide/Conv", "windows/Conv"} <= in_int8 and not made.scheme("openvino").wrong

    def test_the_first_that_passes_the_score_or_the_nearest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        largest = sys.float_info.max  # of a score that is not a number
        with self.artifacts(tmp_path, []) as made:
            for offs, wanted in (
                ((1.2, 0.9, 0.1), ("forward",)),
                ((1.3, 1.2, 1.4), ("forward",)),
                ((largest, 1.2, np.inf), ("forward",)),
                ((np.inf, largest, np.inf), ("forward",)),
                ((np.inf,) * 3, None),
            ):
                left = iter(offs)
                monkeypatch.setattr(SchemeSearch, "_score_of", lambda self, scheme: next(left))  # noqa: B023
                made._schemes.clear()
                if wanted is None:
                    with pytest.raises(QualityGateError, match="something else than its INT8 graph in each of 3 forms"):
                        made.scheme("openvino")
                else:
                    assert made.scheme("openvino").evens == wanted


class Seeing(nn.Module):
    """A policy: an image encoder, and a perceptron over a bowl around what it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 4))
        self.judge = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, action: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        seen = self.encoder(image)
        return self.judge(torch.cat([seen, action], 1)).squeeze(1) + (action - seen).square().sum(1)


def pictures(count: int, seed: int) -> torch.Tensor:
    """A wave in each colour, of its own direction, phase and strength: what an encoder tells apart."""
    generator = torch.Generator().manual_seed(seed)
    direction, strength, phase = (torch.rand(count, 3, 1, 1, generator=generator) for _ in range(3))
    place = torch.linspace(0, 1, 16)
    return 0.5 + strength * torch.sin(6 * (direction * place + (1 - direction) * place[:, None] + phase)) / 2


IMAGES = pictures(40, 5)


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


class TestPrologue:
    """What depends on conditions alone is calibrated apart, from conditions, so that it runs once for each of them."""

    PATHS = ("score.int8.onnx", "score.int8.openvino.xml", "score.mixed.onnx", "score.mixed.openvino.xml")

    def test_the_states_have_its_features_once_for_each_condition(self, tmp_path: Path) -> None:
        energy = make_energy(Seeing().eval(), torch.zeros(4, 4), cond={"image": IMAGES})
        split = split_conditions(energy)
        with CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, tmp_path, None, split, None, (1, 8, 8), True, None,
            lambda what, done, total: None,
        ) as made:  # fmt: skip
            # the layer's share, and the bowl's
            assert [len(rows) for rows in made.states.conditions.values()] == [20, 20]
            assert {value.name for value in made.steps.graph.inputs} == {"x", "grad_scale", *made.states.conditions}
            whole = dataclasses.replace(made.states, conditions=split.calibration)
            np.testing.assert_allclose(gradients(made.steps, made.states), gradients(made.model, whole), rtol=1e-4)

    def test_real_data_is_seen_under_its_own_condition(self, tmp_path: Path) -> None:
        """For x at what the encoder sees the bowl is flat, which it is under no other image."""
        model = Seeing().eval()
        energy = make_energy(model, torch.zeros(4, 4), cond={"image": IMAGES})
        with torch.no_grad():
            seen = model.encoder(IMAGES).numpy()
        split = split_conditions(energy, seen)
        with CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, tmp_path, None, split, seen, (1, 8, 8), True, None,
            lambda what, done, total: None,
        ) as made:  # fmt: skip
            real = made.states.part(np.flatnonzero(made.states.step < 0))
            assert len(real) == 20  # those whose image is not kept back for the gate
            features = [real.inputs(slice(None))[name] for name in real.conditions]
            apart = min(np.abs(value - real.x).max() for value in features if value.shape == real.x.shape)
            assert apart < 1e-5

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

        def verdict(self: CalibratedArtifacts, artifact: Artifact, folder: Path) -> tuple[str, None]:
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


def verdict(passed: bool) -> dict[str, Any]:
    """What trials answer, in the place of the gate."""
    result = GateResult(passed, True, (), (), 128, 7, 0.5, 1.25, "as the test wants it")
    return {"passed": passed, "reason": "too coarse", "ratios": {"energy": 2.0}, "result": result.to_dict()}


class TestMixed:
    def test_a_tail_is_not_free_where_nothing_can_be_timed(self) -> None:
        trials = object.__new__(_Trials)
        trials._name, trials._order = "onnx", list("abcd")
        times = [Assignment(0, "fp16"), Assignment(1, "fp16"), Assignment(1, "fp16", wide=1), Assignment(2, "fp16")]
        assert sorted(times, key=trials.milliseconds) == times
        # What a chain ends in runs as an engine with all layers in that precision.
        assert trials.end_milliseconds("fp16") == trials.milliseconds(Assignment(4, "fp16"))
        assert trials.end_milliseconds("fp32") == trials.milliseconds(Assignment(4, "fp16", wide=4))

    def test_a_log_is_of_an_export_with_the_same_options(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Times and gradients of graphs with and without a prologue differ; --no-split changes nothing where there is nothing to split.
        Without PyTorch's answers chains run with other gradient scales."""
        monkeypatch.setattr(CalibratedArtifacts, "scheme", lambda self, name: Scheme())
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()

        def differing(model: Callable[..., torch.Tensor], *cond: str) -> list[set[str]]:
            rows = {name: torch.randn(4, 4) for name in cond}
            energy = make_energy(model, torch.randn(4, 3), cond=rows, sampler=CONFIG)
            graph, spec = score_graph(energy), model_spec(energy)
            subjects = []
            for splits, golden in ((True, None), (False, None), (True, {})):
                with CalibratedArtifacts(
                    graph, spec, CONFIG, tmp_path, None, Conditions({}, {}, True), None, (1, 8, 8), splits, golden, lambda *_: None,
                ) as made:  # fmt: skip
                    subjects.append(_subject(made, "onnx", ["layer"], GateRules()))
            first, *others = subjects
            assert all(other.keys() == first.keys() for other in others)
            return [{key for key, value in first.items() if value != other[key]} for other in others]

        assert differing(lambda x, image: (x - net(image)).square().sum(1), "image") == [{"split"}, {"verify"}]
        assert differing(lambda x: x.square().sum(1)) == [set(), {"verify"}]

    @pytest.mark.parametrize("name", ["openvino", "onnx"])  # which is not timed
    def test_what_cannot_be_written_leaves_the_others(self, tmp_path: Path, name: str) -> None:
        """Each first of two cannot, and leaves a file behind."""
        folders: list[Path] = []

        class Artifacts:
            def write(self, name: str, folder: Path, *_: Any) -> Artifact:
                (folder / "score.bin").write_bytes(b"")
                folders.append(folder)
                if len(folders) % 2:
                    raise UnsupportedOperation("object is not initialized")
                return {"path": "score.bin"}

            graphs = SimpleNamespace(quantizer=lambda scheme: SimpleNamespace(layers=()))

            def __getattr__(self, _: str) -> Any:
                return lambda *_: None

        trials = object.__new__(_Trials)
        trials._artifacts, trials._name, trials._order = Artifacts(), name, list("abcd")  # type: ignore[assignment]
        trials._scratch, trials._built, trials._times, trials._verdicts = tmp_path, {}, {}, {}
        refused, fine = Assignment(1, "fp32"), Assignment(2, "fp32")
        if name == "openvino":
            trials.float_milliseconds = 1.0
            assert trials.milliseconds(refused) == float("inf")
        else:
            said = {"passed": False, "reason": "object is not initialized", "ratios": {}}
            assert trials.verdict(refused) == said
        artifact, folder = trials._artifact(fine)
        assert [file.name for file in folder.iterdir()] == [artifact["path"]]
        assert trials._artifact(fine) == (artifact, folder) and len(folders) == 2, "written once"
        with pytest.raises(UnsupportedOperation):
            trials._artifact(refused)
        assert len({*folders}) == 3

    @pytest.mark.parametrize(
        ("target", "low", "paths"),
        [
            ("openvino", "bf16", ["score.fp32.openvino.xml", "score.bf16.openvino.xml", "score.mixed.openvino.xml"]),
            (
                "tensorrt",
                "fp16",
                [f"score.{one}.{end}" for one in ("fp32", "fp16", "mixed") for end in ("onnx", "tensorrt.plan")],
            ),
        ],
    )
    def test_the_last_steps_in_a_low_type(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, low: str, paths: list[str]
    ) -> None:
        """What the schedule ends in was not asked for, and is in the bundle, verified: it could not be run without it."""
        judge = _Trials.verdict

        def judged(self: _Trials, one: Assignment) -> dict[str, Any]:
            return judge(self, one) if one.tail else verdict(False)

        monkeypatch.setattr(_Trials, "verdict", judged)
        monkeypatch.setattr(_Trials, "milliseconds", lambda self, one: 1.0 + one.kept)
        monkeypatch.setattr(_Trials, "end_milliseconds", lambda self, end: 20.0 if end == "fp32" else 10.0)
        for module in ("mixed", "artifacts", "export"):
            one = sys.modules[f"ebm_export.exporter.{module}"]
            monkeypatch.setattr(one, "low_types", lambda name: [low])  # BF16 on any CPU
        path = export(
            Residual().eval(), torch.randn(4, *SHAPE), **options(tmp_path, targets=[target], precisions=["mixed"])
        )
        entries = {entry.path: entry for entry in Bundle(path).artifacts}
        assert sorted(entries) == sorted(paths)
        found = next(entry for entry in entries.values() if entry.precision == "mixed" and entry.status == "verified")
        assert {entry.schedule for entry in entries.values()} == {"", found.schedule}
        assert re.fullmatch(f"mixed:0-([4-7]),{low}:\\1-", found.schedule)
        for entry in entries.values():  # a plan too
            assert ("whole chains on it were not judged" in entry.note) == (entry.precision == low), entry.path
        seen = {entry["path"] for entry in Bundle(path).manifest.verification if entry["passed"]}
        assert {path for path in paths if not path.endswith(".plan")} == seen
        if target == "openvino":
            with load(path, backend="openvino", precision="mixed") as ebm:
                assert np.isfinite(ebm.sample(4, seed=0)).all()

    @pytest.mark.parametrize(
        ("refused", "precisions"), [("fp16", ["mixed"]), ("mixed", ["mixed"]), ("fp16", ["fp16", "mixed"])]
    )
    def test_a_plan_that_tensorrt_refuses_leaves_what_it_is_built_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, precisions: list[str]
    ) -> None:
        """After hours of a search there is a bundle. Of the plans of mixed and of what its chains end on, neither is of use alone. One
        that was refused is not tried again for mixed."""
        tried: list[str] = []
        write = tensorrt.write

        def plan(graph: onnx.ModelProto, folder: Path, *, precision: str, **more: Any) -> Artifact:
            made = write(graph, folder, precision=precision, **more)
            tried.append(precision)
            if precision == refused:
                raise UnsupportedOperation(f"tensorrt refuses {refused}")
            return made

        monkeypatch.setattr(tensorrt, "write", plan)
        monkeypatch.setattr(_Trials, "verdict", lambda self, one: verdict(one.tail > 0 and one.end == "fp16"))
        energy = make_energy(Residual().eval(), torch.randn(4, *SHAPE), sampler=CONFIG)
        out = tmp_path / "net.ebm"
        gating = gating_for(precisions, 1.25, smallest_difference=FEW, out=out)
        report = export_energy(energy, out=out, targets=["tensorrt"], precisions=precisions, gating=gating)
        assert isinstance(report.failure, UnsupportedOperation)
        said = str(report.failure)
        assert said.count(f"tensorrt refuses {refused}") == 1 == tried.count("fp16")
        why = "no tensorrt plan in mixed: that in fp16, which its last steps run on, failed"
        assert (why in said) == ("fp16" in precisions)
        paths = ["score.fp16.onnx", "score.fp32.onnx", "score.fp32.tensorrt.plan", "score.mixed.onnx"]
        assert sorted(entry.path for entry in Bundle(out).artifacts) == paths
        assert sorted(file.name for file in out.glob("score.*")) == paths

    def test_three_precisions_in_one_graph(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the search finds that two layers have to leave INT8, and one of them has to be in float32."""
        monkeypatch.setattr(_Trials, "milliseconds", lambda self, one: 1.0 + one.kept + 0.5 * one.wide)
        monkeypatch.setattr(_Trials, "verdict", lambda self, one: verdict(one.kept >= 2 and one.wide >= 1))
        path = export(
            Residual().eval(), torch.randn(4, *SHAPE), **options(tmp_path, targets=["tensorrt"], precisions=["mixed"])
        )
        (entry,) = json.loads((path / "calibration.json").read_text())["artifacts"]
        said = {node["name"]: node["precision"] for node in entry["nodes"]}
        assert set(said.values()) == {"int8", "fp16", "fp32"}
        for node in entry["nodes"]:  # those that the search chose among, whatever became of them
            measured = node["precision"] == "int8" or node["reason"].startswith("alone it moves")
            assert [set(part) for part in node.get("alone", [])] == [
                {"from step", "gain", "bias", "noise"}
            ] * 4 * measured
        graph = ir.load(path / "score.mixed.onnx").graph
        types = {node.name: node.inputs[1].dtype for node in graph if node.name in said and node.inputs[1] is not None}
        (wide,) = (name for name, precision in said.items() if precision == "fp32")
        assert types[wide] == ir.DataType.FLOAT
        assert ir.DataType.FLOAT16 in {types[name] for name, precision in said.items() if precision == "fp16"}

    def test_the_search_log_is_gone_when_the_export_is_done(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_Trials, "milliseconds", lambda self, assignment: 1e-4 + 1e-6 * assignment.kept)
        path = export(
            Residual().eval(),
            torch.randn(4, *SHAPE),
            **options(tmp_path, targets=["openvino", "tensorrt"], precisions=["mixed"]),
        )
        kinds = {(artifact.target, artifact.precision) for artifact in Bundle(path).artifacts}
        assert {("openvino", "mixed"), ("tensorrt", "mixed"), ("onnx", "mixed"), ("openvino", "fp32")} <= kinds
        assert not list(tmp_path.glob("*.search*"))
        with load(path, backend="openvino", precision="mixed") as ebm:
            assert np.isfinite(ebm.sample(4, seed=0)).all()

    def test_a_killed_search_measures_and_judges_nothing_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither what was refused nor what passed, whose result the manifest has from the log. Layers that do nearly the same harm may
        change places when they are measured again, which must not part a search from its log: so they are not."""
        asked: list[str] = []

        def killed(*_: object, **__: object) -> Any:
            raise KeyboardInterrupt

        def again(*_: object, **__: object) -> Any:
            raise AssertionError("the log has the sensitivities")

        def judged(self: _Trials, assignment: Assignment) -> dict[str, Any]:
            asked.append(assignment.key)
            if len(asked) == 3:
                raise KeyboardInterrupt
            return verdict(assignment.kept >= 2)

        monkeypatch.setattr(_Trials, "milliseconds", lambda self, one: 1e-4 * (1 + one.kept))
        monkeypatch.setattr(_Trials, "verdict", judged)
        energy = make_energy(Residual().eval(), torch.randn(4, *SHAPE), sampler=CONFIG)

        def run(name: str) -> tuple[str, Any]:
            out = tmp_path / name
            gating = gating_for(["mixed"], 1.25, smallest_difference=FEW, out=out)
            path = export_energy(
                energy, out=out, targets=["onnxruntime"], precisions=["mixed"], gating=gating, force=True
            ).path
            (gate,) = (entry["gate"] for entry in Bundle(path).manifest.verification if "gate" in entry)
            return (path / "calibration.json").read_text(), gate

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(_Trials, "end_milliseconds", killed)
            run("killed.ebm")
        (log,) = tmp_path.glob("killed.ebm.search.*")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line.get("key") for line in lines] == [None, "sensitivities"], "kept before anything is tried"
        with monkeypatch.context() as patch:
            patch.setattr(layer_order, "measure_sensitivity", again)
            with pytest.raises(KeyboardInterrupt):
                run("killed.ebm")
            assert not (tmp_path / "killed.ebm").exists()
            assert asked[1].startswith("kept=2 "), "the choice was judged before the kill"
            layers, gate = run("killed.ebm")
        assert gate == verdict(True)["result"]
        assert asked[3] == asked[2], "the trial that was killed is run again"
        assert len(set(asked)) == len(asked) - 1, "and no other"
        asked[:] = [""] * 3  # which no kill follows
        assert run("whole.ebm") == (layers, gate)

    def test_sensitivities_of_a_log_are_of_its_model_and_settings_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured, measure = 0, layer_order.measure_sensitivity

        def counted(*given: Any, **more: Any) -> list[Sensitivity]:
            nonlocal measured
            measured += 1
            return measure(*given, **more)

        def run(model: nn.Module, config: SamplerConfig = CONFIG) -> list[Sensitivity]:
            energy = make_energy(model.eval(), torch.zeros(4, *SHAPE), sampler=config)
            (folder := tmp_path / str(len(list(tmp_path.iterdir())))).mkdir()
            with CalibratedArtifacts(
                score_graph(energy), model_spec(energy), config, folder, None, Conditions({}, {}, True), None, (1, 8, 8), True, None,
                lambda *_: None,
            ) as made:  # fmt: skip
                subject = _subject(made, "onnxruntime", made.graphs.quantizer(Scheme()).default, GateRules())
                return made.graphs.sensitivities(Scheme(), SearchLog(tmp_path / "log.jsonl", subject))

        monkeypatch.setattr(CalibratedArtifacts, "scheme", lambda self, name: Scheme())
        monkeypatch.setattr(layer_order, "measure_sensitivity", counted)
        first = run(Residual())
        assert (run(Residual()), measured) == (first, 1)
        other = Residual()
        other.second.weight.data *= 0.9
        assert (run(other) == first, measured) == (False, 2)
        assert (run(Residual(), CONFIG.replace(steps=9)) == first, measured) == (False, 3)
