"""Mixed exports: what a search may choose, and what a killed one goes on from."""

from __future__ import annotations

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
import pytest
import torch
from torch import nn

from ebm_export.calibration import deadline as clock
from ebm_export.calibration import layer_order, sensitivity
from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.search import Assignment
from ebm_export.calibration.search_log import SearchLog
from ebm_export.calibration.sensitivity import Sensitivity
from ebm_export.calibration.verdict import GateResult
from ebm_export.exporter import artifacts, calibrated, export
from ebm_export.exporter.calibrated import CalibratedArtifacts
from ebm_export.exporter.conditions import Conditions
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.export import export_energy
from ebm_export.exporter.gating import gating_for
from ebm_export.exporter.manifest import model_spec
from ebm_export.exporter.mixed import _Trials
from ebm_export.exporter.search_subject import search_subject
from ebm_export.exporter.targets import Artifact, tensorrt
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.engine import Engine
from ebm_export.runtime.errors import UnsupportedOperation

from .calibrated_models import CONFIG, FEW, SHAPE, Residual, options
from .referee import score_graph

pytestmark = pytest.mark.usefixtures("fewer_states")


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
                    made.graphs = SimpleNamespace(corrected=lambda *_, steps=made.steps: steps)  # type: ignore[assignment]
                    subjects.append(search_subject(made, "onnx", ["layer"], GateRules()))
            first, *others = subjects
            assert all(other.keys() == first.keys() for other in others)
            return [{key for key, value in first.items() if value != other[key]} for other in others]

        assert differing(lambda x, image: (x - net(image)).square().sum(1), "image") == [
            {"split", "calibration"},
            {"verify"},
        ]
        assert differing(lambda x: x.square().sum(1)) == [set(), {"verify"}]

    def test_a_target_is_timed_beside_its_own_float32(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """OpenVINO, which FP32's samples are drawn with where it is installed, may be faster than all that ONNX Runtime has."""
        beside: list[tuple[str, str]] = []

        def spied(*both: tuple[Engine, Any]) -> tuple[float, float]:
            first, second = (engine.backend for engine, _ in both)
            beside.append((first, second))
            return 1.0, 2.0

        monkeypatch.setattr(sys.modules["ebm_export.exporter.mixed"], "_milliseconds", spied)
        monkeypatch.setattr(_Trials, "verdict", lambda self, one: verdict(True))
        path = export(
            Residual().eval(),
            torch.randn(4, *SHAPE),
            **options(tmp_path, targets=["onnxruntime"], precisions=["mixed"]),
        )
        assert set(beside) == {("onnxruntime", "onnxruntime")}
        assert {entry.target for entry in Bundle(path).artifacts} == {"onnxruntime"}

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
        keys = [line.get("key") for line in lines]
        assert keys[0] is None and keys[-1] == "order", "kept before anything is tried"
        assert sorted(keys[1:-1]) == sorted(f"layer {layer}" for layer in lines[-1]["layers"])
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

    def test_time_that_is_short_is_shared_with_the_measuring_of_layers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A clock that goes one second for each graph that is asked for what a layer does, and stands in the trials. The order is that of
        the log from then on, as a kill in the trials and all the time in the world after it show."""
        asked, ask, killed, told = 0, sensitivity.gradients, False, []

        def counted(*given: Any, **more: Any) -> np.ndarray:
            nonlocal asked
            asked += 1
            return ask(*given, **more)

        def judged(self: _Trials, assignment: Assignment) -> dict[str, Any]:
            nonlocal killed
            if assignment.kept and not killed:
                killed = True
                raise KeyboardInterrupt
            return verdict(assignment.kept == len(self._order) - 1)

        monkeypatch.setattr(sensitivity, "gradients", counted)
        monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: float(asked)))
        monkeypatch.setattr(_Trials, "milliseconds", lambda self, one: 1e-6 * (1 + one.kept))
        monkeypatch.setattr(_Trials, "verdict", judged)
        energy = make_energy(Residual().eval(), torch.randn(4, *SHAPE), sampler=CONFIG)
        out = tmp_path / "net.ebm"

        def run(seconds: float | None) -> Path:
            gating = gating_for(["mixed"], 1.25, smallest_difference=FEW, out=out, seconds=seconds)
            return export_energy(
                energy, out=out, targets=["onnxruntime"], precisions=["mixed"], gating=gating,
                progress=lambda what, *_: told.append(what),
            ).path  # fmt: skip

        with pytest.raises(KeyboardInterrupt):
            run(6.0)
        (log,) = tmp_path.glob("*.search.*")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        (order,) = (line for line in lines if line.get("key") == "order")
        total = len(order["layers"])
        assert (asked, order["measured"]) == (3, 2) and total > 4, "float32's gradients, and those of two layers"
        said = f"half of the search's time was over with 2 of {total} layers measured"
        assert f"{said}: the others are taken to err as these do" in told
        path = run(None)
        assert asked == 3, "nothing is measured where trials count from the front of an order"
        (note,) = (entry.note for entry in Bundle(path).artifacts if entry.precision == "mixed")
        assert note.endswith(said) and "time ran out" not in note
        (entry,) = json.loads((path / "calibration.json").read_text())["artifacts"]
        why = {node["name"]: node["reason"].partition(";")[0] for node in entry["nodes"]}
        unmeasured = {name for name, reason in why.items() if reason == "time ran out before it was measured"}
        assert len(unmeasured) >= total - 3 and unmeasured < {*order["layers"][:-1]}
        assert {node["name"] for node in entry["nodes"] if "alone" in node} == {
            line["layer"] for line in lines if "layer" in line
        }

    def test_int8_that_was_refused_measures_nothing_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It comes before mixed, whose log has what each layer does from then on."""

        def killed(*_: object, **__: object) -> Any:
            raise KeyboardInterrupt

        def again(*_: object, **__: object) -> Any:
            raise AssertionError("the log has the sensitivities")

        def refused_with_all_layers(
            self: CalibratedArtifacts, artifact: Artifact, folder: Path, known: Any = None
        ) -> Any:
            return "too coarse" if known is not None else "", None

        def run(precisions: list[str]) -> list[str]:
            out = tmp_path / "net.ebm"
            with pytest.raises(KeyboardInterrupt):
                export(
                    Residual().eval(), torch.zeros(4, *SHAPE), **options(tmp_path, out=out, precisions=precisions),
                )  # fmt: skip
            return [file.name for file in tmp_path.iterdir()]

        monkeypatch.setattr(CalibratedArtifacts, "verdict", refused_with_all_layers)
        monkeypatch.setattr(artifacts, "write_mixed", killed)
        (log,) = run(["int8", "mixed"])
        lines = [json.loads(line) for line in (tmp_path / log).read_text().splitlines()]
        assert log == "net.ebm.search.onnxruntime.jsonl"
        assert sorted(line["layer"] for line in lines[1:]) == lines[0]["subject"]["layers"]
        monkeypatch.setattr(layer_order, "measure_sensitivity", again)
        assert run(["int8", "mixed"]) == [log]

    def test_sensitivities_of_a_log_are_of_its_model_and_settings_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured, measure = 0, layer_order.measure_sensitivity

        def counted(*given: Any, **more: Any) -> Iterator[Sensitivity]:
            nonlocal measured
            measured += 1
            return measure(*given, **more)

        def run(model: nn.Module, config: SamplerConfig = CONFIG) -> dict[str, Sensitivity]:
            energy = make_energy(model.eval(), torch.zeros(4, *SHAPE), sampler=config)
            (folder := tmp_path / str(len(list(tmp_path.iterdir())))).mkdir()
            with CalibratedArtifacts(
                score_graph(energy), model_spec(energy), config, folder, None, Conditions({}, {}, True), None, (1, 8, 8), True, None,
                lambda *_: None,
            ) as made:  # fmt: skip
                subject = search_subject(made, "onnxruntime", made.graphs.quantizer(Scheme()).default, GateRules())
                return made.graphs.sensitivities(Scheme(), SearchLog(tmp_path / "log.jsonl", subject))

        monkeypatch.setattr(CalibratedArtifacts, "scheme", lambda self, name: Scheme())
        monkeypatch.setattr(layer_order, "measure_sensitivity", counted)
        first = run(Residual())
        assert (run(Residual()), measured) == (first, 1)
        other = Residual()
        other.second.weight.data *= 0.9
        assert (run(other) == first, measured) == (False, 2)
        assert (run(Residual(), CONFIG.replace(steps=9)) == first, measured) == (False, 3)
        first = run(Residual())
        monkeypatch.setattr(calibrated, "_CHAINS", 128)  # another calibration of the same model, scheme and version
        assert (run(Residual()) == first, measured) == (False, 5)
