"""Whole exports: every target and precision, what is refused, and what is left behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ebm_export.exporter.targets.onnx as onnx_target
from ebm_export.exporter import export, export_energy, make_energy
from ebm_export.exporter.precision import LOW_TYPES
from ebm_export.exporter.targets import TARGETS
from ebm_export.exporter.verify import Verification, describe_failure
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import (
    ContractError,
    DivergenceError,
    EbmExportError,
    EngineMismatch,
    MissingBackend,
    UnsupportedOperation,
    UsageError,
)
from ebm_export.runtime.verify import StageResult

CONFIG = SamplerConfig(steps=24, step_size=0.05, noise=0.01, bounds=(-2, 2), init="uniform")


PLAIN = ("fp32", *LOW_TYPES)
"""Precisions that need no calibration; test_int8.py and test_mixed.py have the others."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.down, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.down(F.silu(self.stem(x))))
        return 5 * self.head(h.mean((2, 3))).squeeze(1) + 0.5 * x.square().sum((1, 2, 3))


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.encoder, self.score = nn.Linear(6, 8), nn.Sequential(nn.Linear(10, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.score(torch.cat([self.encoder(obs).relu(), action], 1)) + action.square().sum(1, keepdim=True)


EXAMPLE = torch.zeros(2, 1, 6, 6)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("all") / "net.ebm"
    return export(Net().eval(), EXAMPLE, out=out, targets=list(TARGETS), precisions=PLAIN, sampler=CONFIG)


class TestEveryTarget:
    def test_all_engines_that_run_here_are_verified(self, everything: Path) -> None:
        bundle = Bundle(everything)
        statuses = {(a.target, a.precision): a.status for a in bundle.artifacts}
        assert set(statuses) == {(target, precision) for target in TARGETS for precision in PLAIN}
        for (target, _), status in statuses.items():
            assert status == ("built, not run" if target == "tensorrt" else "verified")

    def test_manifest_holds_every_stage_and_batch(self, everything: Path) -> None:
        manifest = json.loads((everything / "manifest.json").read_text())
        assert manifest["schema_version"] == 1
        assert manifest["sampler"]["steps"] == 24
        assert len(manifest["verification"]) == 9
        for entry in manifest["verification"]:
            assert len(entry["stages"]) == 12 * 3
            assert {stage["batch"] for stage in entry["stages"]} == {1, 3, 8}
            assert entry["passed"]
        low, high = manifest["model"]["range"]["x"]
        assert -2 <= low < high <= 2
        with np.load(everything / "golden.npz") as golden:
            assert manifest["model"]["range"]["energy"] == [golden["energy"].min(), golden["energy"].max()]
            sizes = np.sqrt(np.square(golden["grad"][0]).reshape(len(golden["grad"][0]), -1).mean(axis=1))
        assert manifest["model"]["usual_scale"] == pytest.approx(1 / np.median(sizes), rel=1e-5)
        assert manifest["model"]["usual_scale"] != pytest.approx(1, rel=0.01)  # what it is where nothing is known

    @pytest.mark.parametrize("precision", PLAIN)
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_runtime_samples_from_it(self, everything: Path, backend: str, precision: str) -> None:
        with load(everything, backend=backend, precision=precision, threads=1) as ebm:
            samples = ebm.sample(5, seed=1)
            energy, grad = ebm.score(samples)
        model = Net().eval()
        x = torch.tensor(samples, requires_grad=True)
        (expected,) = torch.autograd.grad(model(x).sum(), x)
        tolerance = 1e-4 if precision == "fp32" else 5e-2
        assert np.linalg.norm(grad - expected.numpy()) <= tolerance * np.linalg.norm(expected.numpy())
        assert energy == pytest.approx(model(x).detach().numpy(), rel=tolerance)

    def test_backends_draw_the_same_samples(self, everything: Path) -> None:
        drawn = []
        for backend in ("onnxruntime", "openvino"):
            with load(everything, backend=backend, threads=1) as ebm:
                drawn.append(ebm.sample(6, seed=2))
        np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-4)


def test_the_report_says_what_the_manifest_says(tmp_path: Path) -> None:
    energy = make_energy(Net().eval(), EXAMPLE, sampler=CONFIG)
    targets = ["onnxruntime", "tensorrt"]
    report = export_energy(energy, out=tmp_path / "n.ebm", targets=targets, precisions=["fp32"], fuse=2)
    said = {artifact["path"]: (artifact["status"], artifact["note"]) for artifact in report.artifacts}
    written = {artifact.path: (artifact.status, artifact.note) for artifact in Bundle(report.path).artifacts}
    assert said.items() <= written.items()
    assert sorted(status for status, _ in said.values()) == ["built, not run", "verified", "verified"]


class TestConditioning:
    def test_wrt_the_second_parameter(self, tmp_path: Path) -> None:
        obs = torch.randn(1, 6)
        path = export(
            Policy(), torch.zeros(2, 2), cond={"obs": obs}, wrt="action", out=tmp_path / "p.ebm", sampler=CONFIG
        )
        manifest = json.loads((path / "manifest.json").read_text())
        assert manifest["model"]["wrt"] == "action"
        seen = [float(obs.min()), float(obs.max())]
        assert manifest["model"]["cond"] == [{"name": "obs", "dtype": "float32", "shape": [6], "range": seen}]
        with load(path) as ebm:
            actions = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
            energy, _ = ebm.score(actions, obs=obs.numpy())
        expected = Policy()(obs.expand(7, 6), torch.tensor(actions)).squeeze(1)
        assert energy == pytest.approx(expected.detach().numpy(), rel=1e-4)

    @pytest.mark.parametrize(
        ("name", "energy"),
        [
            ("energy", lambda x, energy: (x - energy).square().sum(1)),
            ("sample", lambda x, sample: (x - sample).square().sum(1)),
        ],
    )
    def test_a_parameter_named_like_an_output_keeps_its_name_for_callers(
        self, tmp_path: Path, name: str, energy: Callable[..., torch.Tensor]
    ) -> None:
        """Like one of the score graph, or of the file with a whole chain."""
        path = export(
            energy,
            torch.randn(4, 3),
            cond={name: torch.randn(4, 3)},
            out=tmp_path / "p.ebm",
            sampler=CONFIG,
            targets=["onnxruntime"],
            fuse=2,
        )
        manifest = json.loads((path / "manifest.json").read_text())
        (entry,) = manifest["model"]["cond"]
        assert (entry["name"], entry["parameter"]) == (f"{name}_", name)
        assert list(path.glob("standalone.*"))
        given = {name: np.ones((1, 3), np.float32)}
        with load(path) as ebm:
            value, _ = ebm.score(np.zeros((2, 3), np.float32), **given)
            ebm.sample(2, **given)
        assert value == pytest.approx([3.0, 3.0])

    @pytest.mark.parametrize("energy", ["negative", "logsumexp"])
    def test_how_the_output_becomes_an_energy(self, tmp_path: Path, energy: str) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 4 if energy == "logsumexp" else 1))
        path = export(net, torch.zeros(2, 3), energy=energy, out=tmp_path / "n.ebm", sampler=CONFIG)
        x = torch.randn(4, 3)
        with load(path) as ebm:
            value, _ = ebm.score(x.numpy())
        expected = -net(x).squeeze(1) if energy == "negative" else -net(x).logsumexp(1)
        assert value == pytest.approx(expected.detach().numpy(), rel=1e-4)


class TestWithoutSettings:
    def test_settings_may_be_a_dictionary(self, tmp_path: Path) -> None:
        path = export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler={"steps": 24, "step_size": 0.05})
        assert Bundle(path).manifest.sampler == SamplerConfig(steps=24, step_size=0.05)

    def test_a_step_size_is_found_and_said(self, tmp_path: Path) -> None:
        report = export_energy(
            make_energy(Net().eval(), EXAMPLE), out=tmp_path / "n.ebm", targets=["onnxruntime"], precisions=["fp32"]
        )
        assert report.found_sampler
        assert Bundle(report.path).manifest.sampler == report.sampler


class TestRefused:
    def test_an_existing_bundle(self, everything: Path) -> None:
        with pytest.raises(UsageError, match="exists"):
            export(Net().eval(), EXAMPLE, out=everything, sampler=CONFIG)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"targets": ["tpu"]}, "none called 'tpu'"),
            ({"precisions": ["fp8"]}, "none called 'fp8'"),
            ({"precisions": ["int8"], "gate": 0.9}, "gate: expected a number above 1, got 0.9"),
            ({"precisions": ["int8"], "smallest_difference": 0}, "smallest_difference: expected a number above 0"),
            ({"precisions": "fp32"}, r"precisions: expected a list of names, such as \['fp32'\], got the text 'fp32'"),
            ({"targets": "onnx"}, r"targets: expected a list of names, such as \['onnx'\]"),
            (
                {"precisions": ["fp32", "mixed"], "gate": None},
                r"leave gate=None \(--no-gate\) out, or export int8 with it",
            ),
            (
                {"precisions": ["fp32", "bf16"], "targets": ["openvino"], "weight_bits": 7},
                r"weight_bits \(--weight-bits\) .* ask for int8",
            ),
            (
                {"precisions": ["int8"], "targets": ["onnxruntime"], "weight_bits": 8},
                r"weight_bits .* with the target openvino",
            ),
            ({"precisions": ["fp32", "bf16"], "ranges": "mse"}, r"ranges \(--ranges\) .* nothing is calibrated here"),
            ({"batch": (4, 2, 8)}, "MIN <= OPT <= MAX"),
            ({"targets": []}, "at least one target"),
        ],
    )
    def test_wrong_options_before_any_work(self, tmp_path: Path, options: dict, text: str) -> None:
        with pytest.raises(UsageError, match=text):
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=CONFIG, **options)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("sampler", "text"),
        [
            ({"step": 10}, "'step' is not a sampler setting; did you mean 'steps'"),
            ([10], "sampler: expected a SamplerConfig or a dictionary of its fields, got list"),
        ],
    )
    def test_settings_that_are_none(self, tmp_path: Path, sampler: Any, text: str) -> None:
        with pytest.raises(UsageError, match=text):
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=sampler)
        assert not list(tmp_path.iterdir())

    def test_a_target_that_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TARGETS["openvino"], "available", lambda: "needs the package openvino: pip install X")
        with pytest.raises(MissingBackend, match="needs the package openvino") as caught:
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", targets=["openvino"], sampler=CONFIG)
        assert caught.value.exit_code == 7

    def test_a_batch_norm_in_training_mode(self, tmp_path: Path) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        with pytest.raises(ContractError, match=r"eval\(\)"):
            export(net, EXAMPLE, out=tmp_path / "n.ebm", sampler=CONFIG)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("mode", "hint"), [("energy", "--energy negative"), ("negative", "may be an energy and no log density")]
    )
    def test_chains_that_diverge_in_pytorch(self, tmp_path: Path, mode: Any, hint: str) -> None:
        wild = SamplerConfig(steps=5, step_size=1e30)
        with pytest.raises(DivergenceError, match=rf"--bounds\); the model itself does so, in PyTorch: .*{hint}"):
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=wild, energy=mode)
        assert not list(tmp_path.iterdir())

    def test_data_that_is_not_finite(self, tmp_path: Path) -> None:
        """In the place of the energies that it would give, which are the model's."""
        data = np.zeros((5000, *EXAMPLE.shape[1:]), np.float32)
        data[3, ..., -1], data[4999, 0] = np.nan, np.inf
        with pytest.raises(
            UsageError, match=r"data \(--calibration-data\): .*NaN or infinity in 2 of 5000 states; leave"
        ):
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=CONFIG, data=data)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "sampler",
        [SamplerConfig(steps=2, step_size=0.01), SamplerConfig(steps=2, init="uniform", bounds=(-1, 1)), None],
    )
    def test_data_is_no_place_to_check_where_chains_start_elsewhere(
        self, sampler: SamplerConfig | None, tmp_path: Path
    ) -> None:
        def positive(x: torch.Tensor) -> torch.Tensor:
            return (x - torch.log(x)).sum(1)

        data = np.random.default_rng(0).uniform(0.5, 1.5, (16, 3)).astype(np.float32)
        example = torch.rand(4, 3) + 0.5
        start = "normal" if sampler is None else sampler.init
        with pytest.raises(ContractError, match=rf"energies are not finite \(nan\) where chains start \({start}\)"):
            export(positive, example, out=tmp_path / "n.ebm", sampler=sampler, data=data)
        there = SamplerConfig(steps=2, step_size=0.01, init="data")
        assert export(positive, example, out=tmp_path / "n.ebm", sampler=there, data=data).exists()

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"sampler": SamplerConfig(init="data")}, "starts from data"),
            ({"sampler": SamplerConfig(sampler="mala"), "fuse": 4}, "fuse: the sampler 'mala' accepts and rejects"),
            ({"sampler": CONFIG, "fuse": 1}, "fuse: expected the number of steps in one call, at least 2, got 1"),
            ({"fuse": True}, "fuse: expected the number of steps in one call, at least 2, got True"),
        ],
    )
    def test_settings_before_the_model_runs(self, tmp_path: Path, options: dict, text: str) -> None:
        def model(x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("too late")

        with pytest.raises(UsageError, match=text):
            export(model, EXAMPLE, out=tmp_path / "n.ebm", **options)


def damage(proto: onnx.ModelProto, name: str) -> None:
    """Doubles one stored weight."""
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), name))


class TestMismatch:
    def test_a_wrong_engine_is_not_written_and_its_first_wrong_operation_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        honest = onnx_target.write

        def broken(graph: onnx.ModelProto, folder: Path, **options):
            if any(tensor.name == "down.weight" for tensor in graph.graph.initializer):
                damage(graph, "down.weight")
            return honest(graph, folder, **options)

        monkeypatch.setattr(onnx_target, "write", broken)
        out = tmp_path / "n.ebm"
        with pytest.raises(EngineMismatch) as caught:
            export(Net().eval(), EXAMPLE, out=out, targets=["onnx", "onnxruntime"], sampler=CONFIG)
        text = str(caught.value)
        assert caught.value.exit_code == 5
        assert "score.fp32.onnx disagrees with PyTorch: at stage 0 (step 0, batch 1)" in text
        assert "aten.convolution.default, in module 'down' (test_export.py:" in text
        assert "the others were written" in text
        assert sorted(a.path for a in Bundle(out).artifacts) == ["score.fp32.onnxruntime.onnx"]
        assert not (out / "score.fp32.onnx").exists()

    def test_what_is_wrong_with_one_condition_for_all_alone_is_no_operation(self) -> None:
        stages = [
            StageResult(stage, 0, 8, error, 1.0, 0.0, passed=error < 1e-4, shared=shared)
            for stage, error, shared in [(0, 1e-6, False), (0, 0.5, True), (1, 1e-6, False)]
        ]
        found = Verification("score.fp32.onnx", "fp32", stages, "")
        text = describe_failure(found, {}, None, None, {})  # type: ignore[arg-type]
        assert "at stage 0 (step 0, batch 8 with one condition for all) the gradient's relative error is 0.5" in text
        assert text.endswith("With a condition for each sample it agrees")

    def test_no_bundle_where_every_engine_is_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = onnx_target.write

        def broken(graph: onnx.ModelProto, folder: Path, **options):
            if any(tensor.name == "stem.weight" for tensor in graph.graph.initializer):
                damage(graph, "stem.weight")
            return honest(graph, folder, **options)

        monkeypatch.setattr(onnx_target, "write", broken)
        with pytest.raises(EngineMismatch, match="no bundle was written"):
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", targets=["onnx"], sampler=CONFIG)
        assert not list(tmp_path.iterdir())

    def test_without_verification_nothing_is_called_verified(self, tmp_path: Path) -> None:
        path = export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", sampler=CONFIG, verify=False)
        assert {artifact.status for artifact in Bundle(path).artifacts} == {"built, not run"}


class TestRefusal:
    """An engine that does not take an operation which other engines take."""

    SAID = (
        "Check 'shapes.compatible' failed at src/core/add.cpp:12:\nWhile validating node 'opset1::Add (..)' with "
        "friendly_name 'grad':\nArgument shapes are inconsistent."
    )

    @pytest.fixture(autouse=True)
    def refusing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compile_model = openvino.Core.compile_model

        def refuse(core: Any, model: Any, *rest: Any) -> Any:
            if "grad" in {
                name for port in model.outputs for name in port.names
            }:  # the small model that asks what the CPU can is none
                raise RuntimeError(self.SAID)
            return compile_model(core, model, *rest)

        monkeypatch.setattr(openvino.Core, "compile_model", refuse)

    def test_the_others_are_written(self, tmp_path: Path) -> None:
        out = tmp_path / "n.ebm"
        with pytest.raises(UnsupportedOperation) as caught:
            export(Net().eval(), EXAMPLE, out=out, targets=["openvino", "onnxruntime"], sampler=CONFIG)
        text = str(caught.value)
        assert "OpenVINO cannot compile score.fp32.openvino.xml for a batch of " in text
        assert "Add node 'grad': Argument shapes are inconsistent; it stands for aten." in text
        assert "(test_export.py:" in text and "leave the target openvino out" in text
        assert "the others were written" in text
        assert caught.value.exit_code == 4
        assert sorted(a.path for a in Bundle(out).artifacts) == ["score.fp32.onnxruntime.onnx"]
        assert not [file for file in out.iterdir() if "openvino" in file.name]

    def test_the_others_are_calibrated(self, tmp_path: Path) -> None:
        out, net = (
            tmp_path / "n.ebm",
            nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)),
        )
        plan = {"targets": ["openvino", "onnxruntime"], "precisions": ["fp32", "int8"]}
        with pytest.raises(
            UnsupportedOperation, match=r"score\.fp32\.openvino.*score\.int8\.openvino.*others were written"
        ):
            export(net, torch.zeros(2, 3), out=out, sampler=CONFIG, gate=None, **plan)
        written = sorted(a.path for a in Bundle(out).artifacts)
        assert written == ["score.fp32.onnxruntime.onnx", "score.int8.onnxruntime.onnx"]
        assert not [file for file in out.iterdir() if "openvino" in file.name]

    def test_no_bundle_where_no_other_is_asked_for(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedOperation, match="no bundle was written"):
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", targets=["openvino"], sampler=CONFIG)
        assert not list(tmp_path.iterdir())


REFUSALS = {
    "no kernel": "NOT_IMPLEMENTED : Could not find an implementation for {kind}(16) node with name '{name}'",
    "no such type": "INVALID_GRAPH : Type 'tensor(bool)' of input parameter (a) of operator ({kind}) in node ({name}) is invalid.",
    "no operation": 'INVALID_GRAPH : This is an invalid model. In Node, ("{name}", {kind}, "", -1) : ("a": tensor(bool),)',
}
"""What onnxruntime says of a node that it does not load."""


class TestFailureOfAnEngine:
    """An engine whose library does not load or run what was written for it, and says which node of it or does not."""

    @pytest.mark.parametrize("said", REFUSALS.values(), ids=REFUSALS)
    def test_onnxruntime_names_a_node(self, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, *_: object, **__: object) -> None:
            node = next(node for node in onnx.load(path).graph.node if node.op_type == "Conv")
            raise RuntimeError(said.format(kind=node.op_type, name=node.name))

        monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
        text = self.refused(tmp_path / "n.ebm", left_out="onnxruntime", kept="openvino")
        assert "onnxruntime cannot load score.fp32.onnxruntime.onnx: " in text
        assert "it stands for aten.convolution.default, in module 'stem' (test_export.py:" in text
        assert "leave the target onnxruntime out" in text

    def test_openvino_names_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("no memory is left")

        monkeypatch.setattr(openvino.CompiledModel, "create_infer_request", refuse)
        text = self.refused(tmp_path / "n.ebm", left_out="openvino", kept="onnxruntime")
        assert "OpenVINO cannot compile score.fp32.openvino.xml for a batch of " in text
        assert "no memory is left; leave the target openvino out" in text

    def test_a_file_cannot_be_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("nobody knows why")

        monkeypatch.setattr(openvino, "save_model", refuse)
        text = self.refused(tmp_path / "n.ebm", left_out="openvino", kept="onnxruntime")
        assert "OpenVINO cannot convert the fp32 score graph: nobody knows why" in text

    @staticmethod
    def refused(out: Path, *, left_out: str, kept: str) -> str:
        with pytest.raises(UnsupportedOperation, match="the others were written") as caught:
            export(Net().eval(), EXAMPLE, out=out, targets=[kept, left_out], sampler=CONFIG)
        assert [artifact.target for artifact in Bundle(out).artifacts] == [kept]
        assert not [file for file in out.iterdir() if left_out in file.name]
        return str(caught.value)


class TestNothingHalfWritten:
    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(onnx, "save", full)
        with pytest.raises(EbmExportError, match="no space left"):
            export(Net().eval(), EXAMPLE, out=tmp_path / "n.ebm", targets=["onnx"], sampler=CONFIG)
        assert not list(tmp_path.iterdir())

    def test_a_kill_in_the_middle(self, tmp_path: Path) -> None:
        script = """
            import sys, torch
            from ebm_export.exporter import export
            from ebm_export.runtime import SamplerConfig

            def tell(what, done, total):
                if what.startswith("verifying"):
                    print("now", flush=True)
                    sys.stdin.read()

            net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
            export(net, torch.zeros(2, 3), out=sys.argv[1], sampler=SamplerConfig(steps=4, step_size=0.1), progress=tell)
        """
        out = tmp_path / "n.ebm"
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
        assert not out.exists()
        assert len(list(tmp_path.iterdir())) == 1  # the temporary folder of the dead process
        time.sleep(0.01)
        export(Net().eval(), EXAMPLE, out=out, sampler=CONFIG)
        assert [entry.name for entry in tmp_path.iterdir()] == ["n.ebm"]
