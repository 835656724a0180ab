"""Mixed-precision artifacts: the fastest choice of layers and steps whose samples pass the gate."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.deadline import Deadline
from ..calibration.layer_order import order_layers
from ..calibration.search import Assignment, search
from ..calibration.search_log import SearchLog
from ..calibration.sensitivity import Sensitivity
from ..calibration.verdict import GateResult
from ..runtime.engine import Engine
from ..runtime.errors import EbmExportError, QualityGateError, UnsupportedOperation
from ..runtime.precision_schedule import Span
from ..runtime.shared_rows import rows_apart
from .calibrated import Calibrated, CalibratedArtifacts
from .search_subject import search_log
from .tail import Tail, low_types
from .targets import Artifact
from .written_engine import steps_of

__all__ = ["Mixed", "write_mixed"]

_NO_ENGINE = (EbmExportError, UnsupportedOperation)
"""What a backend says of a graph that it cannot compile, and no class below these: OpenVINO 2026.4 refuses some with INT8, BF16 and float32
in one ("object is not initialized"), which leaves all other choices."""

_MEASURING = 0.5
"""Part of a search's time in which layers are measured. An order is worth nothing without trials, of which the first needs none."""
_UNMEASURED = "time ran out before it was measured"
_ORDER = "order"
"""Its key in the log: trials are of so many layers from its front."""

_ROUNDS = 31
"""Calls of each engine that are timed, taking turns with float32, so that both see the same machine."""


@dataclass
class Mixed:
    """What a search chose for one target."""

    made: Calibrated
    schedule: str
    """Precisions over the steps, or "" where one engine runs them all."""
    end: str
    """Precision of the last steps, or ""."""


def write_mixed(
    artifacts: CalibratedArtifacts,
    name: str,
    folder: Path,
    *,
    tails: Mapping[str, Tail],
    log: Path | None,
    seconds: float | None,
) -> Mixed:
    """Searches for and writes the mixed artifact of a target.

    Where engines of the target run here, the choice is by their measured time. TensorRT's do not: as few layers as pass are
    out of INT8, and as few of these in float32; the rest is in FP16.

    Args:
        artifacts: of this export, with a gate.
        name: of the target: onnx, onnxruntime or openvino.
        folder: where the artifact goes.
        tails: by precision, engines of this target that the last steps may run on, beside float32.
        log: file to resume from, or None.
        seconds: time of the search, which begins when everything is calibrated: after it no new trial is begun, and after half of it no
            layer is measured; None for no limit.

    Raises:
        QualityGateError: nothing passes and is faster than float32.
    """
    assert artifacts.rules is not None and artifacts.gate is not None, (
        "an export of mixed without the gate is refused before it begins"
    )
    scheme = artifacts.scheme(name)
    default = artifacts.graphs.quantizer(scheme).default
    if not default:
        raise QualityGateError(
            f"mixed for {name}: this energy has no layer that would gain from INT8; export it in fp32, fp16 or bf16"
        )
    with tempfile.TemporaryDirectory(dir=artifacts.scratch) as scratch, ExitStack() as stack:
        records = search_log(artifacts, name, log)
        deadline = Deadline(seconds)  # the log's first line took the calibration
        order, measured = _ordered(artifacts, name, records, seconds)
        cut = _said_if_cut(records)
        # An engine of ONNX Runtime may be faster than its own float32 and slower than OpenVINO's. Nothing of TensorRT's is timed.
        lasts = {"fp32": artifacts.fp32 if name == "onnx" else artifacts.float32(name)} | {
            precision: stack.enter_context(artifacts.open(tail.artifact, tail.folder))
            for precision, tail in tails.items()
        }
        trials = _Trials(artifacts, name, order, Path(scratch), lasts)
        ends = {}
        for end in lasts:
            key = "time float32" if end == "fp32" else f"time {end}"
            if key not in records.trials:
                records.add(key, {"ms": trials.end_milliseconds(end)})
            ends[end] = float(records.trials[key]["ms"])
            if end == "fp32":  # the first
                trials.float_milliseconds = ends[end]
        # Nothing of TensorRT's is timed here: whatever passes is taken for faster than float32.
        others = low_types(name) if name == "onnx" else ["fp32", *low_types(name)]
        float_milliseconds = float("inf") if name == "onnx" else ends["fp32"]
        found = search(
            len(order),
            others,
            artifacts.config.steps,
            trials,
            records,
            float_milliseconds=float_milliseconds,
            ends=ends,
            deadline=deadline,
            progress=artifacts.tell,
        )
    if found.assignment is None:
        kept = "" if log is None else f" (what was tried is in {log}; remove it to search anew)"
        ended = "; ".join(filter(None, [found.reason, cut]))
        raise QualityGateError(
            f"mixed for {name}: nothing passes the quality gate and is faster than float32, so fp32 is the choice; the "
            f"search ended with: {ended}{kept}"
        )
    choice = found.assignment
    assert found.verdict is not None
    out = {
        layer: f"{measured[layer].said if layer in measured else _UNMEASURED}; the search kept {choice.kept} of {len(order)}"
        for layer in order[: choice.kept]
    }
    int8, wide = order[choice.kept :], trials.wide(choice)
    artifact = artifacts.write(name, folder, int8, "mixed", choice.other, wide)
    layers = artifacts.graphs.describe(scheme, int8, out, choice.other, wide)
    artifacts.note_int8(artifact, folder, layers)
    schedule = ""
    if choice.tail:
        turn = artifacts.config.steps - choice.tail
        schedule = f"mixed:0-{turn},{choice.end}:{turn}-"
    share = (
        "" if float_milliseconds == float("inf") else f", {float_milliseconds / found.milliseconds:.2f} times float32"
    )
    artifact["note"] = "; ".join(
        filter(None, [artifact["note"], f"{found.reason}{share}", "" if found.complete else "time ran out", cut])
    )
    result = GateResult.from_dict(found.verdict["result"])
    return Mixed(Calibrated(artifact, layers, result, choice.other), schedule, choice.end if choice.tail else "")


def _ordered(
    artifacts: CalibratedArtifacts, name: str, records: SearchLog, seconds: float | None
) -> tuple[list[str], dict[str, Sensitivity]]:
    """The names of the layers, the most harm for its work first, and what those of them do that time was left to measure.

    An order that is in the log stays, also where time cut it short and there is more now: what was tried went by it.
    """
    scheme, settled = artifacts.scheme(name), _ORDER in records.trials
    share = None if seconds is None else _MEASURING * seconds
    measured = artifacts.graphs.sensitivities(scheme, records, Deadline(0 if settled else share))
    if not settled:
        order = [layer.name for layer in order_layers(artifacts.graphs.layers(scheme), measured)]
        records.add(_ORDER, {"layers": order, "measured": len(measured)})
        if cut := _said_if_cut(records):
            artifacts.tell(f"{cut}: the others are taken to err as these do", 0, 0)
    return list(records.trials[_ORDER]["layers"]), measured


def _said_if_cut(records: SearchLog) -> str:
    """How many layers the order in the log comes from, where these are not all; else ""."""
    measured, total = records.trials[_ORDER]["measured"], len(records.trials[_ORDER]["layers"])
    return "" if measured == total else f"half of the search's time was over with {measured} of {total} layers measured"


class _Trials:
    """Builds, times and judges assignments of one target; `lasts` are open engines for the last steps, by precision."""

    def __init__(
        self, artifacts: CalibratedArtifacts, name: str, order: list[str], scratch: Path, lasts: Mapping[str, Engine]
    ) -> None:
        self.float_milliseconds = 1.0
        self._lasts = lasts
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

    def end_milliseconds(self, end: str) -> float:
        """Of a step of a tail; TensorRT's, which no engine here can tell, is one with all layers in this precision."""
        if self._name == "onnx":
            return (1.5 if end == "fp32" else 1.0) * len(self._order)
        engine, conditions, batch = self._lasts[end], self._artifacts.conditions.calibration, self._artifacts.batch[1]
        rows = {name: array[np.arange(batch) % len(array)] for name, array in conditions.items()}
        inputs = {name: self._inputs[name] for name in ("x", "grad_scale")}  # its prologue may be cut in another place
        inputs |= {
            name: np.array(array) for name, array in (rows_apart(engine.prepare(rows), batch) if rows else {}).items()
        }
        own, other = self._timed(engine, inputs)
        return other if end == "fp32" else own * self.float_milliseconds / other

    def milliseconds(self, assignment: Assignment) -> float:
        if self._name == "onnx":
            # No engine of TensorRT runs here: fewer layers out of INT8 are faster, and fewer of these in float32.
            return assignment.kept + 0.5 * assignment.wide
        key = self._key(assignment)
        if key not in self._times:
            try:
                with self._artifacts.open(*self._artifact(assignment)) as engine:
                    own, other = self._timed(engine, self._inputs)
            except EbmExportError as error:
                if type(error) not in _NO_ENGINE:
                    raise
                self._artifacts.tell(f"left out, {error}", 0, 0)
                own, other = float("inf"), 1.0
            # They took turns: what slowed one slowed the other.
            self._times[key] = own * self.float_milliseconds / other
        return self._times[key]

    def _timed(self, engine: Engine, inputs: dict[str, np.ndarray]) -> tuple[float, float]:
        """Milliseconds of a step on an engine, which takes `inputs`, and in float32."""
        return _milliseconds((steps_of(engine), inputs), (steps_of(self._lasts["fp32"]), self._inputs))

    def verdict(self, assignment: Assignment) -> dict[str, Any]:
        """What passed has its whole result in it, for the manifest: a search that was killed is not judged again."""
        key = (*self._key(assignment), assignment.tail, assignment.tail and assignment.end)
        if key not in self._verdicts:
            try:
                self._verdicts[key] = self._judged(assignment)
            except EbmExportError as error:
                if type(error) not in _NO_ENGINE:
                    raise
                self._verdicts[key] = str(error)  # at the batch of the gate's chains
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
            schedule, last = [], engine
            if assignment.tail:
                turn, last = self._artifacts.config.steps - assignment.tail, self._lasts[assignment.end]
                schedule = [(Span("mixed", 0, turn), engine), (Span(assignment.end, turn, None), last)]
            fidelity = gate.fidelity(lambda step: engine if not schedule or step < turn else last)
            return gate.refused_by_score(fidelity) or gate.judge(assignment.key, last, schedule, fidelity)

    def _key(self, assignment: Assignment) -> tuple[Any, ...]:
        """The same for assignments that come to the same engine, as those do whose layers cannot be kept in float32."""
        return assignment.kept, assignment.other, *self.wide(assignment)

    def wide(self, assignment: Assignment) -> list[str]:
        """The layers in float32 beside a low type. OpenVINO's CPU plugin lowers matrix products in any case."""
        chosen = self._order[: assignment.wide]
        if self._name != "openvino":
            return chosen
        layers = self._artifacts.graphs.quantizer(self._artifacts.scheme(self._name)).layers
        products = {layer.name for layer in layers if layer.op != "Conv"}
        return [name for name in chosen if name not in products]

    def _artifact(self, assignment: Assignment) -> tuple[Artifact, Path]:
        key = self._key(assignment)
        if key not in self._built:
            folder = Path(tempfile.mkdtemp(dir=self._scratch))  # no other's, also not that of one that failed
            int8, wide = self._order[assignment.kept :], self.wide(assignment)
            artifact = self._artifacts.write(self._name, folder, int8, "mixed", assignment.other, wide)
            self._built[key] = artifact, folder
        return self._built[key]


def _milliseconds(
    first: tuple[Engine, dict[str, np.ndarray]], second: tuple[Engine, dict[str, np.ndarray]]
) -> tuple[float, float]:
    """Median time of one call of each of two engines, with its inputs, that take turns; in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS + 3):
        for (one, inputs), taken in zip((first, second), times, strict=True):
            begun = time.perf_counter()
            one.run(inputs)
            if turn >= 3:  # warm
                taken.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times[0])), float(np.median(times[1]))
