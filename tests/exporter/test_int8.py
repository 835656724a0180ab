"""INT8 exports: what is written, and what the gate refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import numpy_helper

from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.quality_gate import QualityGate
from ebm_export.calibration.verdict import GateResult
from ebm_export.exporter import export
from ebm_export.exporter.mixed import _Trials
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.openvino_saturation import has_large_weights, saturates
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import LoadError, QualityGateError, UnsupportedOperation, UsageError
from ebm_export.runtime.verify_bundle import verify_bundle

from .calibrated_models import CONFIG, SHAPE, Residual, options

pytestmark = pytest.mark.usefixtures("fewer_states")


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

    def test_the_manifest_says_by_how_much_energies_are_rounded(self, bundle: Path) -> None:
        found = {entry.path: entry.energy_rounding for entry in Bundle(bundle).artifacts}
        assert {path for path, rounding in found.items() if rounding is None} == {
            path for path in found if ".fp32." in path
        }
        assert found["score.int8.tensorrt.plan"] == found["score.int8.onnx"]
        with load(bundle, backend="openvino", precision="fp32") as exact:
            ends = np.repeat(exact.sample(256, seed=9), 4, axis=0)
            noise = np.random.default_rng(0).standard_normal(ends.shape, dtype=np.float32)
            noise[::4] = 0
            moved = ends + np.float32(np.sqrt(2 * CONFIG.step_size * CONFIG.temperature)) * noise
            wanted = exact.score(moved)[0]
        for backend, path in (("onnxruntime", "score.int8.onnxruntime.onnx"), ("openvino", "score.int8.openvino.xml")):
            with load(bundle, backend=backend, precision="int8") as ebm:
                off = (ebm.score(moved)[0] - wanted).reshape(256, 4)
            rounding = found[path]
            assert rounding is not None and rounding == pytest.approx(np.sqrt(off.var(axis=1, ddof=1).mean()), rel=0.3)

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


@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_what_a_library_cannot_load_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    opened = OnnxRuntimeEngine.open

    def refused(self: OnnxRuntimeEngine) -> None:
        if self.precision in ("int8", "mixed"):
            raise LoadError(f"onnxruntime cannot load {self.path.name}: no kernel for this")
        opened(self)

    monkeypatch.setattr(OnnxRuntimeEngine, "open", refused)
    # Whether so small a net is faster in mixed depends on the machine; here it is.
    monkeypatch.setattr(_Trials, "milliseconds", lambda self, one: 1e-4 + 1e-6 * one.kept)
    more = options(tmp_path, targets=["onnxruntime", "openvino"], precisions=["fp32", precision])
    with pytest.raises(UnsupportedOperation, match="no kernel for this; the others were written to"):
        export(Residual().eval(), torch.randn(4, *SHAPE), **more)
    kept = {artifact.path for artifact in Bundle(more["out"]).artifacts}
    assert kept >= {"score.fp32.onnxruntime.onnx", "score.fp32.openvino.xml", f"score.{precision}.openvino.xml"}
    assert not list(more["out"].glob(f"*{precision}.onnxruntime*"))
