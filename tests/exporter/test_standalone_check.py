"""A whole chain in one file is run before it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter import fusion as fusion_module
from ebm_export.exporter import standalone_check as check_module
from ebm_export.exporter import standalone_sampler as standalone_module
from ebm_export.runtime import EngineMismatch, SamplerConfig

from .steep import write_steep
from .test_fusion import GOAL, write
from .test_sampler_graph import Net, config_of
from .test_split import POLICY, Policy

FILE = "standalone.fp32.onnx"
STEPS = 18


def entry_of(bundle: Path, path: str = FILE) -> dict[str, Any] | None:
    entries = json.loads((bundle / "manifest.json").read_text())["artifacts"]
    return next((entry for entry in entries if entry["path"] == path), None)


def damage(monkeypatch: pytest.MonkeyPatch, by: Callable[[onnx.GraphProto], None]) -> None:
    """Changes what is written, and not what the steps in one call are."""
    real = fusion_module.standalone_sampler

    def damaged(*arguments: Any, **options: Any) -> ir.Model:
        proto = ir.to_proto(real(*arguments, **options))
        by(proto.graph)
        return ir.from_proto(proto)

    monkeypatch.setattr(fusion_module, "standalone_sampler", damaged)


def behind(graph: onnx.GraphProto, name: str, kind: str, *more: str) -> None:
    """One more operation in front of an output."""
    for node in graph.node:
        node.output[:] = ["straight" if output == name else output for output in node.output]
    graph.node.append(helper.make_node(kind, ["straight", *more], [name], **({"axis": 0} if kind == "Concat" else {})))


def trips(graph: onnx.GraphProto, count: int) -> None:
    (loop,) = (node for node in graph.node if node.op_type == "Loop")
    loop.input[0] = "trips"
    graph.initializer.append(numpy_helper.from_array(np.array(count), "trips"))


def constant(graph: onnx.GraphProto, number: float) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), "damage"))
    return "damage"


def rename(graph: onnx.GraphProto, name: str, other: str) -> None:
    for value in graph.input:
        value.name = other if value.name == name else value.name
    graph.node.insert(0, helper.make_node("Identity", [other], [name]))


def beyond_the_end(graph: onnx.GraphProto) -> None:
    """Numbers of a step that is not there."""
    graph.initializer.append(numpy_helper.from_array(np.array(STEPS), "beyond"))
    (loop,) = (node for node in graph.node if node.op_type == "Loop")
    for node in loop.attribute[0].g.node:
        if node.op_type == "Gather":
            node.input[1] = "beyond"


DAMAGES: dict[str, tuple[Callable[[onnx.GraphProto], None], str]] = {
    "a step less": (lambda graph: trips(graph, STEPS - 1), f"takes {STEPS - 1} steps, expected {STEPS}"),
    "a step that is not there": (beyond_the_end, "does not run: onnxruntime cannot "),
    "another energy": (
        lambda graph: behind(graph, "energy", "Mul", constant(graph, 1.01)),
        r"returns another energy than that of its sample: off by \S+ of the spread of energies, allowed 0\.0001",
    ),
    "no number": (
        lambda graph: behind(graph, "sample", "Mul", constant(graph, np.inf)),
        "returns 3 of 3 chains whose numbers are not finite",
    ),
    "another name": (
        lambda graph: rename(graph, "goal", "target"),
        "takes x, target, expected x, goal",
    ),
    "every chain twice": (
        lambda graph: behind(graph, "sample", "Concat", "straight"),
        r"returns 'sample' of the shape \(6, 3\), expected \(3, 3\)",
    ),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by, said = DAMAGES[name]
    damage(monkeypatch, by)
    with pytest.raises(EngineMismatch, match=rf"^standalone\.fp32\.onnx {said}.*others were written"):
        write(tmp_path, config_of("langevin"), targets=["onnx"])
    bundle = tmp_path / "m.ebm"
    assert entry_of(bundle) is None and not (bundle / FILE).exists()
    assert entry_of(bundle, "sampler.fp32.onnx")


@pytest.mark.parametrize("name", ["langevin", "optimize", "underdamped"])
def test_other_steps_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number of each step is 2 % larger, with noise and without."""
    real = standalone_module.series_of

    def larger(*arguments: Any) -> dict[str, np.ndarray]:
        series = real(*arguments)
        first = next(iter(series))
        return series | {first: series[first] * np.float32(1.02)}

    monkeypatch.setattr(standalone_module, "series_of", larger)
    with pytest.raises(
        EngineMismatch,
        match=r"standalone\.fp32\.onnx leaves the runtime's chain where both have no noise: after 4 steps",
    ):
        write(tmp_path, config_of(name), targets=["onnx"])


LIMITS = {"fp32": (1e-4, 1e-4), "fp16": (5e-2, 1e-2)}


@pytest.mark.parametrize(
    "name",
    ["clipped norm", "noise first", "preconditioned, no warm-up", "underdamped, reflecting"],
)
def test_what_is_right_is_kept_with_what_was_found(name: str, tmp_path: Path) -> None:
    bundle = write(tmp_path, config_of(name), targets=["onnx"], precisions=list(LIMITS))
    for precision, limits in LIMITS.items():
        entry = entry_of(bundle, f"standalone.{precision}.onnx")
        assert entry is not None and entry["status"] == "verified"
        check = entry["check"]
        assert (check["chains"], check["gap_steps"]) == (3, 4)
        assert (check["allowed_energy_error"], check["allowed_gap"]) == limits
        assert check["energy_error"] < limits[0] / 2
        assert check["gap"] < limits[1] / 10


def test_one_with_an_encoder(tmp_path: Path) -> None:
    bundle = export(
        Policy().eval(), POLICY["x"], cond={"image": POLICY["image"]}, out=tmp_path / "m.ebm", targets=["onnx"],
        sampler=SamplerConfig(steps=5, step_size=0.05), fuse=2,
    )  # fmt: skip
    assert entry_of(bundle, "prologue.fp32.onnx")
    entry = entry_of(bundle)
    assert entry is not None and entry["check"]["gap"] < 1e-6


class Spare(Policy):
    """One of its conditioning inputs is not read."""

    def forward(self, x: torch.Tensor, image: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        return super().forward(x, image)


def test_it_takes_what_the_energy_does_not_read_too(tmp_path: Path) -> None:
    bundle = export(
        Spare().eval(), POLICY["x"], cond={"image": POLICY["image"], "spare": torch.randn(len(POLICY["image"]), 2)}, out=tmp_path / "m.ebm",
        targets=["onnx"], sampler=SamplerConfig(steps=5, step_size=0.05), fuse=2,
    )  # fmt: skip
    assert entry_of(bundle, "prologue.fp32.onnx")
    assert [value.name for value in onnx.load(bundle / FILE).graph.input] == ["x", "image", "spare"]


def test_the_verdict_is_the_same_each_time_and_of_chains_that_are_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    real = check_module._answer

    def seen(path: Path, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        answer = real(path, *arguments)
        if path.name.startswith("seeded."):
            answer[0][0] = answer[1][0] = np.nan  # as of a chain that left
            answers.append(answer)
        return answer

    monkeypatch.setattr(check_module, "_answer", seen)
    for seed in (1, 2):
        torch.manual_seed(0)
        onnxruntime.set_seed(seed)  # of noise without one
        bundle = write(tmp_path / str(seed), config_of("underdamped"), Net().eval(), targets=["onnx"])
        assert entry_of(bundle)
        assert not any(a.name == "seed" for graph in bodies(bundle / FILE) for n in graph.node for a in n.attribute)
    one, other = (answer[0][1:] for answer in answers)
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all()


class Waves(nn.Module):
    """Its descent in long steps, x + 6 sin x, doubles what rounding does at each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        nn.init.eye_(self.layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).cos().sum(1) + 0.01 * x.square().sum(1)


def test_a_chain_that_doubles_rounding_is_not_compared_to_its_end(tmp_path: Path) -> None:
    config = SamplerConfig(steps=60, step_size=6.0, temperature=1e-4)
    bundle = export(
        Waves().eval(), torch.randn(4, 3), out=tmp_path / "m.ebm", targets=["onnx"], precisions=["fp16"], sampler=config, fuse=2
    )  # fmt: skip
    entry = entry_of(bundle, "standalone.fp16.onnx")
    assert entry is not None and entry["check"]["gap_steps"] == 2


def test_a_chain_in_which_rounding_grows_is_compared_where_it_starts(tmp_path: Path) -> None:
    entry = entry_of(write_steep(tmp_path), "standalone.fp16.onnx")
    assert entry is not None
    assert 1 <= entry["check"]["gap_steps"] < 32
    assert entry["check"]["gap"] < entry["check"]["allowed_gap"] / 2


def test_other_steps_are_refused_where_rounding_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = standalone_module.series_of

    def larger(*arguments: Any) -> dict[str, np.ndarray]:
        series = real(*arguments)
        return series | {"step_size": series["step_size"] * np.float32(1.02)}

    monkeypatch.setattr(standalone_module, "series_of", larger)
    with pytest.raises(EngineMismatch, match=r"standalone\.fp16\.onnx leaves the runtime's chain .*, allowed 0\.01"):
        write_steep(tmp_path)


def test_nothing_runs_unless_it_is_to_be_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "check_standalone", None)
    monkeypatch.setattr(fusion_module, "check_standalone", None)
    entry = entry_of(write(tmp_path, targets=["onnx"], verify=False))
    assert entry is not None and entry["status"] == "built, not run"
    assert "check" not in entry


class TestInt8:
    """8-bit graphs are read back from their files, each half as it was quantized."""

    def test_its_samples_are_those_of_fp32(self, tmp_path: Path) -> None:
        bundle = write(
            tmp_path, config_of("langevin", steps=60), targets=["onnx"], precisions=["fp32", "int8"], gate=None
        )
        entry = entry_of(bundle, "standalone.int8.onnx")
        assert entry is not None and entry["status"] == "run, not judged"
        assert entry["check"]["gap"] < 0.01 and entry["check"]["energy_error"] < 0.02
        assert "x86 CPU without VNNI needs session.disable_quant_qdq=1" in entry["note"]
        found = {}
        count = 20000
        onnxruntime.set_seed(1)
        for precision in ("fp32", "int8"):
            path = bundle / f"standalone.{precision}.onnx"
            assert ("DequantizeLinear" in {node.op_type for node in bodies(path)[-1].node}) == (precision == "int8")
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            feeds = {"x": np.zeros((count, 3), np.float32), "goal": np.tile(GOAL, (count, 1))}
            found[precision] = session.run(["sample", "energy"], feeds)
        for one, other in zip(found["fp32"], found["int8"], strict=True):
            error = one.std(0) * np.sqrt(2 / count)
            assert (np.abs(one.mean(0) - other.mean(0)) < 5 * error).all()
            assert (np.abs(other.std(0) / one.std(0) - 1) < 5 / np.sqrt(count)).all()

    def test_one_with_an_encoder_in_int8(self, tmp_path: Path) -> None:
        bundle = export(
            Policy().eval(), POLICY["x"], cond={"image": torch.randn(32, 3, 16, 16)}, out=tmp_path / "m.ebm", targets=["onnx"],
            precisions=["int8"], sampler=SamplerConfig(steps=5, step_size=0.05), fuse=2, gate=None,
        )  # fmt: skip
        score, entry = (entry_of(bundle, f"{name}.int8.onnx") for name in ("score", "standalone"))
        assert score is not None and "its prologue runs in INT8" in score["note"]
        assert entry is not None and entry["check"]["gap"] < 0.01


def bodies(path: Path) -> list[onnx.GraphProto]:
    """Those of the Loops of a file: the search for the first scale, where there is one, and the steps."""
    return [node.attribute[0].g for node in onnx.load(path).graph.node if node.op_type == "Loop"]


def test_what_cannot_be_one_file_is_said(tmp_path: Path) -> None:
    bundle = write(tmp_path, targets=["onnx"], precisions=["bf16"])
    assert not list(bundle.glob("standalone.*"))
    entry = entry_of(bundle, "score.bf16.onnx")
    assert entry is not None
    assert "no file with a whole chain: few ONNX runtimes compute in BF16" in entry["note"]


def test_it_is_there_where_the_steps_in_one_call_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion_module.Fusion, "why_wrong", lambda *_: "sampler.fp32.onnx is off")
    with pytest.raises(EngineMismatch, match=r"^sampler\.fp32\.onnx is off"):
        write(tmp_path, targets=["onnx"])
    bundle = tmp_path / "m.ebm"
    assert entry_of(bundle) and entry_of(bundle, "sampler.fp32.onnx") is None
