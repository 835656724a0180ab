"""Mixed-precision artifacts: the fastest choice of layers and steps whose samples pass the gate."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..calibration.gate_rules import GateRules
from ..calibration.search import Assignment, search
from ..calibration.search_log import SearchLog
from ..calibration.verdict import GateResult
from ..runtime.device import describe_device, toolchain
from ..runtime.engine import Engine
from ..runtime.errors import QualityGateError
from ..runtime.precision_schedule import Span
from .calibrated import Calibrated, CalibratedArtifacts, steps_of
from .targets import Artifact

__all__ = ["Mixed", "write_mixed"]

_ROUNDS = 31
"""Calls of each engine that are timed, taking turns with float32, so that both see the same machine."""


@dataclass
class Mixed:
    """What a search chose for one target."""

    made: Calibrated
    schedule: str
    """Precisions over the steps, or "" where one engine runs them all."""


def write_mixed(
    artifacts: CalibratedArtifacts, name: str, folder: Path, *, log: Path | None, seconds: float | None
) -> Mixed:
    """Searches for and writes the mixed artifact of a target.

    Where engines of the target run here, the choice is by their measured time. TensorRT's do not: as few layers as pass are
    out of INT8, and as few of these in float32; the rest is in FP16.

    Args:
        artifacts: of this export, with a gate.
        name: of the target: onnx, onnxruntime or openvino.
        folder: where the artifact goes.
        log: file to resume from, or None.
        seconds: time after which no new trial is begun.

    Raises:
        QualityGateError: nothing passes and is faster than float32.
    """
    assert artifacts.rules is not None and artifacts.gate is not None, (
        "an export of mixed without the gate is refused before it begins"
    )
    scheme = artifacts.scheme(name)
    quantizer = artifacts.quantizer(scheme)
    measured = {entry.layer.name: entry for entry in artifacts.sensitivities(scheme)}
    if not measured:
        raise QualityGateError(
            f"mixed for {name}: this energy has no layer that would gain from INT8; export it in fp32, fp16 or bf16"
        )
    with tempfile.TemporaryDirectory(dir=artifacts.scratch) as scratch:
        records = SearchLog(log, _subject(artifacts, name, measured, artifacts.rules))
        if "order" not in records.trials:
            records.add("order", {"layers": list(measured)})
        order = list(records.trials["order"]["layers"])  # of before a kill: what was tried went by it
        trials = _Trials(artifacts, name, order, Path(scratch))
        if name == "onnx":
            others, float_milliseconds = ["fp16"], float("inf")
        else:
            others = _others(name)
            key = "time float32"
            if key not in records.trials:
                records.add(key, {"ms": trials.float_milliseconds})
            trials.float_milliseconds = float_milliseconds = float(records.trials[key]["ms"])
        found = search(
            len(order),
            others,
            artifacts.config.steps,
            trials,
            records,
            float_milliseconds=float_milliseconds,
            seconds=seconds,
            progress=artifacts.tell,
        )
    if found.assignment is None:
        kept = "" if log is None else f" (what was tried is in {log}; remove it to search anew)"
        raise QualityGateError(
            f"mixed for {name}: nothing passes the quality gate and is faster than float32, so fp32 is the choice; the "
            f"search ended with: {found.reason}{kept}"
        )
    choice = found.assignment
    assert found.verdict is not None
    out = {
        layer: f"alone it moves the gradient by {measured[layer].error:.1%}; the search kept {choice.kept} of {len(order)}"
        for layer in order[: choice.kept]
    }
    int8, wide = order[choice.kept :], trials.wide(choice)
    artifact = artifacts.write(name, folder, quantizer, int8, "mixed", choice.other, wide)
    artifacts.note_int8(artifact, folder)
    schedule = ""
    if choice.tail:
        turn = artifacts.config.steps - choice.tail
        schedule = f"mixed:0-{turn},fp32:{turn}-"
    share = (
        "" if float_milliseconds == float("inf") else f", {float_milliseconds / found.milliseconds:.2f} times float32"
    )
    artifact["note"] = "; ".join(
        filter(None, [artifact["note"], f"{found.reason}{share}", "" if found.complete else "time ran out"])
    )
    result = GateResult.from_dict(found.verdict["result"])
    made = Calibrated(artifact, quantizer.describe(int8, out, choice.other, wide), result, choice.other)
    return Mixed(made, schedule)


class _Trials:
    """Builds, times and judges assignments of one target."""

    def __init__(self, artifacts: CalibratedArtifacts, name: str, order: list[str], scratch: Path) -> None:
        self._artifacts = artifacts
        self._name = name
        self._order = order
        self._scratch = scratch
        self._built: dict[tuple[Any, ...], tuple[Artifact, Path]] = {}
        self._times: dict[tuple[Any, ...], float] = {}
        self._verdicts: dict[tuple[Any, ...], GateResult | str] = {}
        self._inputs = artifacts.states.inputs(
            np.resize(np.arange(len(artifacts.states)), artifacts.batch[1])  # one batch, as often as states last
        )
        self.float_milliseconds = self._timed(artifacts.fp32)[1]

    def milliseconds(self, assignment: Assignment) -> float:
        if self._name == "onnx":
            # No engine of TensorRT runs here: fewer layers out of INT8 are faster, and fewer of these in float32. A step of the
            # tail is one with all layers in float32.
            part = assignment.tail / self._artifacts.config.steps
            return (1 - part) * (assignment.kept + 0.5 * assignment.wide) + part * 1.5 * len(self._order)
        key = self._key(assignment)
        if key not in self._times:
            with self._artifacts.open(*self._artifact(assignment)) as engine:
                own, other = self._timed(engine)
            # They took turns: what slowed one slowed the other.
            self._times[key] = own * self.float_milliseconds / other
        own = self._times[key]
        steps = self._artifacts.config.steps
        return ((steps - assignment.tail) * own + assignment.tail * self.float_milliseconds) / steps

    def _timed(self, engine: Engine) -> tuple[float, float]:
        """Milliseconds of a step on an engine and in float32."""
        return _milliseconds(steps_of(engine), steps_of(self._artifacts.fp32), self._inputs)

    def verdict(self, assignment: Assignment) -> dict[str, Any]:
        """What passed has its whole result in it, for the manifest: a search that was killed is not judged again."""
        key = (*self._key(assignment), assignment.tail)
        if key not in self._verdicts:
            self._verdicts[key] = self._judged(assignment)
        result = self._verdicts[key]
        if isinstance(result, str):
            return {"passed": False, "reason": result, "ratios": {}}
        ratios = {each.metric: each.ratio for each in result.verdicts}
        found = {"passed": result.passed, "reason": result.reason, "ratios": ratios}
        return {**found, "result": result.to_dict()} if result.passed else found

    def _judged(self, assignment: Assignment) -> GateResult | str:
        """What the gate found, or why the score alone is refused."""
        gate = self._artifacts.gate
        assert gate is not None
        with self._artifacts.open(*self._artifact(assignment)) as engine:
            if assignment.tail:
                turn = self._artifacts.config.steps - assignment.tail
                last = self._artifacts.fp32
                schedule = [(Span("mixed", 0, turn), engine), (Span("fp32", turn, None), last)]
                return gate.judge(assignment.key, last, schedule)
            fidelity = gate.fidelity(engine)
            return gate.refused_by_score(fidelity) or gate.judge(assignment.key, engine, fidelity=fidelity)

    def _key(self, assignment: Assignment) -> tuple[Any, ...]:
        """The same for assignments that come to the same engine, as those do whose layers cannot be kept in float32."""
        return assignment.kept, assignment.other, *self.wide(assignment)

    def wide(self, assignment: Assignment) -> list[str]:
        """The layers in float32 beside a low type. OpenVINO's CPU plugin lowers matrix products in any case."""
        chosen = self._order[: assignment.wide]
        if self._name != "openvino":
            return chosen
        layers = self._artifacts.quantizer(self._artifacts.scheme(self._name)).layers
        products = {layer.name for layer in layers if layer.op != "Conv"}
        return [name for name in chosen if name not in products]

    def _artifact(self, assignment: Assignment) -> tuple[Artifact, Path]:
        key = self._key(assignment)
        if key not in self._built:
            folder = self._scratch / str(len(self._built))
            folder.mkdir()
            int8, wide = self._order[assignment.kept :], self.wide(assignment)
            quantizer = self._artifacts.quantizer(self._artifacts.scheme(self._name))
            artifact = self._artifacts.write(self._name, folder, quantizer, int8, "mixed", assignment.other, wide)
            self._built[key] = artifact, folder
        return self._built[key]


def _milliseconds(engine: Engine, other: Engine, inputs: dict[str, np.ndarray]) -> tuple[float, float]:
    """Median time of one call of each of two engines that take turns, in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS + 3):
        for one, taken in zip((engine, other), times, strict=True):
            begun = time.perf_counter()
            one.run(inputs)
            if turn >= 3:  # warm
                taken.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times[0])), float(np.median(times[1]))


def _others(name: str) -> list[str]:
    """What the rest of the graph may run in."""
    if name != "openvino":
        return ["fp32"]
    import openvino

    low = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["fp32", "bf16"] if low else ["fp32"]


_NO_SAY = ("memory", "system", "python")
"""What a device says of itself that changes neither samples nor the time of an engine: updates of a kernel, another limit of memory."""


def _subject(artifacts: CalibratedArtifacts, name: str, layers: Collection[str], rules: GateRules) -> dict[str, Any]:
    """What a log must have been of for its trials to hold here.

    The order of the layers is no part of it, and stands in the log itself: it comes from measurements, and two layers that do nearly
    the same harm would part a search from its own log.
    """
    graph = ir.to_proto(artifacts.model).SerializeToString(deterministic=True)
    arrays = {"data": artifacts.data}
    conditions, real = artifacts.conditions, artifacts.conditions.data
    paired = {} if real is None else {"real data": real.x} | real.conditions
    for use, rows in (("calibration", conditions.calibration), ("judged", conditions.judged), ("paired", paired)):
        arrays |= {f"{use} {name}": array for name, array in rows.items()}
    return {
        "graph": hashlib.sha256(graph).hexdigest(),
        "target": name,
        "layers": sorted(layers),
        "scheme": asdict(artifacts.scheme(name)),
        "sampler": artifacts.config.to_dict(),
        "batch": list(artifacts.batch),
        "gate": vars(rules),
        "networks": [] if artifacts.networks is None else list(artifacts.networks.identity),
        "arrays": {key: None if array is None else _digest(array) for key, array in sorted(arrays.items())},
        "device": {what: said for what, said in describe_device().items() if what not in _NO_SAY},
        "toolchain": toolchain(),
    }


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
