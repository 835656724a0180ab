"""Writes every artifact that was asked for, each compared with PyTorch and, where that is due, judged by its samples."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..calibration.sample_networks import SampleNetworks
from ..calibration.verdict import GateResult
from ..runtime.config import SamplerConfig
from ..runtime.errors import QualityGateError, UnsupportedOperation
from ..runtime.manifest import CALIBRATED, ModelSpec
from .calibrated import Calibrated, CalibratedArtifacts
from .calibration_file import write_calibration
from .conditions import Conditions
from .fusion import Fusion
from .gating import Gating
from .int8 import write_int8
from .low_gate import LowGate
from .low_prologue import lower_prologue
from .mixed import Mixed, write_mixed
from .passes.infinite_energy import may_be_infinite_alone
from .precision import typed
from .score_graph import ScoreGraph
from .tail import Tail, low_types, write_tail
from .targets import Artifact, Progress, add_note
from .targets.refusal import as_refusals, placed
from .targets.score import files_of, write_plan, write_score
from .verify import Verification, describe_failure, measure_artifact, verify_artifact

__all__ = ["Written", "write_artifacts"]

_ENDS_ALONE = "the last steps of mixed run on it; whole chains on it were not judged"


@dataclass
class Written:
    """What was written, and what was not."""

    artifacts: list[Artifact] = field(default_factory=list)
    verifications: list[Verification] = field(default_factory=list)
    gates: dict[str, GateResult] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)
    """One line for each engine that disagrees with PyTorch."""
    refusals: list[str] = field(default_factory=list)
    """One line for each that the gate refused."""
    unsupported: list[str] = field(default_factory=list)
    """One line for each that its target, or the engine that runs it, does not take."""


@dataclass
class _Writer:
    models: Mapping[str, ir.Model]
    traced: ScoreGraph
    golden: dict[str, np.ndarray] | None
    batch: tuple[int, int, int]
    folder: Path
    tell: Progress
    gating: Gating
    calibrated: CalibratedArtifacts
    splits: bool
    fusion: Fusion | None
    low_gate: LowGate
    written: Written = field(default_factory=Written)
    calibrations: list[Calibrated] = field(default_factory=list)
    """The INT8 and mixed artifacts that were written."""
    refused: dict[str, list[str]] = field(default_factory=dict)
    """Precisions whose ONNX file failed, so that no plan is built from it, with the lines that say so."""
    asked: Collection[str] = ()
    """Precisions of the export."""
    alone: set[str] = field(default_factory=set)
    """Precisions whose whole chain is written."""

    def plain(self, name: str, precision: str) -> None:
        """An artifact whose graph follows from the precision alone."""
        before = set(self.folder.iterdir())
        try:
            artifact, found = self._written(name, precision)
        except UnsupportedOperation as error:
            self._leave_out(name, precision, error, before)
            return
        if found is not None and self.golden is not None and not found.passed and not found.reason:
            self.written.mismatches.append(
                describe_failure(found, artifact, self.models[precision], self.traced, self.golden, self.tell)
            )
            self._remove(artifact, self.written.mismatches)
            return
        if precision != "fp32" and name != "tensorrt":  # whose plan is as its ONNX file is
            try:
                refused, result = self.low_gate.judge(artifact, ran=found is not None and not found.reason)
            except UnsupportedOperation as error:  # which a comparison with PyTorch finds first, where there is one
                self._leave_out(name, precision, error, before)
                return
            if refused:
                self.written.refusals.append(
                    f"{artifact['path']} fails the quality gate: {refused}. Without the gate (gate=None, --no-gate) it is written as it is"
                )
                self._remove(artifact, self.written.refusals)
                return
            if result is not None:
                self.written.gates[artifact["path"]] = result
        if found is not None:  # not before: the gate's refusal takes the file away
            self.written.verifications.append(found)
        self._fuse(artifact, self.models[precision])
        self.written.artifacts.append(artifact)

    def _written(self, name: str, precision: str) -> tuple[Artifact, Verification | None]:
        model = self.models[precision]
        with as_refusals():
            artifact = write_score(
                name, model, self.folder, precision=precision, batch=self.batch, splits=self.splits, progress=self.tell
            )
        if self.golden is None:
            return artifact, None
        self.tell(f"verifying {name} {precision}", 0, 0)
        try:
            return artifact, verify_artifact(artifact, self.folder, self.golden)
        except UnsupportedOperation as error:
            raise placed(error, ir.to_proto(model), name) from error

    def _leave_out(self, name: str, precision: str, error: UnsupportedOperation, before: set[Path]) -> None:
        """Notes what a target, or its engine, does not take, and removes what was written since; others may take it."""
        self.written.unsupported.append(str(error))
        if name == "onnx":
            self.refused[precision] = self.written.unsupported
        for file in set(self.folder.iterdir()) - before:
            file.unlink()

    def calibrate(self, name: str, precision: str) -> None:
        """An INT8 or mixed artifact."""
        before = set(self.folder.iterdir())
        if name == "tensorrt":
            try:
                self.written.artifacts.extend(self._plans(precision))
            except UnsupportedOperation as error:
                self._leave_out(name, precision, error, before)
            return
        try:
            with as_refusals():
                if precision == "int8":
                    log = self.gating.log_of(name) if "mixed" in self.asked else None
                    made = write_int8(self.calibrated, name, self.folder, log)
                else:
                    made = self._mixed(name).made
                lower_prologue(self.calibrated, name, self.folder, made)
        except QualityGateError as error:
            self.written.refusals.append(str(error))
            if name == "onnx":
                self.refused[precision] = self.written.refusals
            return
        except UnsupportedOperation as error:
            self._leave_out(name, precision, error, before)
            return
        self._enter(made)

    def _plans(self, precision: str) -> list[Artifact]:
        """TensorRT's plan of what the target onnx has in this precision; before it that of what its chains end on, where there is none.

        Raises:
            UnsupportedOperation: TensorRT refuses one, or refused what the chains end on before.
        """
        source, made = self._found("onnx", precision), []
        assert source is not None, "no plan is asked for where its ONNX file failed"
        end = source.get("schedule", "").rpartition(",")[2].partition(":")[0]
        last = self._found("onnx", end)
        if last is not None and self._found("tensorrt", end) is None:
            if end in self.asked:  # and is not there: it failed, and would again
                raise UnsupportedOperation(
                    f"no tensorrt plan in {precision}: that in {end}, which its last steps run on, failed"
                )
            made.append(write_plan(last, self.folder, batch=self.batch, progress=self.tell))
            if _ENDS_ALONE in last["note"]:
                add_note(made[0], _ENDS_ALONE)
        return [*made, write_plan(source, self.folder, batch=self.batch, progress=self.tell)]

    def _mixed(self, name: str) -> Mixed:
        """A mixed artifact; the engine that its last steps run on comes with it."""
        with tempfile.TemporaryDirectory(dir=self.calibrated.scratch) as spare:
            tails = self._tails(name, Path(spare))
            mixed = write_mixed(
                self.calibrated,
                name,
                self.folder,
                tails=tails,
                log=self.gating.log_of(name),
                seconds=self.gating.seconds,
            )
            if mixed.schedule:
                mixed.made.artifact["schedule"] = mixed.schedule
            if mixed.end in tails and self._found(name, mixed.end) is None:
                tail = tails[mixed.end]
                tail.move(self.folder)
                add_note(tail.artifact, _ENDS_ALONE)
                if tail.verification is not None:
                    self.written.verifications.append(tail.verification)
                self._fuse(tail.artifact, typed(self.models["fp32"], mixed.end))
                self.written.artifacts.append(tail.artifact)
        return mixed

    def _tails(self, name: str, spare: Path) -> dict[str, Tail]:
        """Low-precision engines that a chain may end on: the bundle's own, or else such as are written in case a search chooses them.

        One that was asked for and is not there was refused.
        """
        found = {}
        for precision in low_types(name):
            own = self._found(name, precision)
            if own is not None:
                found[precision] = Tail(own, self.folder, None)
            elif precision not in self.asked:
                try:
                    tail = write_tail(self.calibrated, name, precision, spare)
                except UnsupportedOperation:
                    continue  # the others are left
                if tail is not None:
                    found[precision] = tail
        return found

    def _found(self, name: str, precision: str) -> Artifact | None:
        """The artifact of a target in a precision, where it was written."""
        mine = (name, precision)
        return next((each for each in self.written.artifacts if (each["target"], each["precision"]) == mine), None)

    def _enter(self, made: Calibrated) -> None:
        if self.golden is not None:
            self.written.verifications.append(measure_artifact(made.artifact, self.folder, self.golden))
        if made.gate is not None:
            self.written.gates[made.artifact["path"]] = made.gate
        self.calibrated.note_rounding(made.artifact, self.folder)
        self.calibrations.append(made)
        self._fuse(made.artifact, self.calibrated.latest)
        self.written.artifacts.append(made.artifact)

    def _fuse(self, artifact: Artifact, model: ir.Model | None) -> None:
        """Writes the samplers that belong to a score graph; one that leaves the chain is left out."""
        if self.fusion is None or model is None:
            return
        made = self.fusion.write(artifact, model, self.folder, self.batch, self.tell)
        self.tell(f"verifying {made['path']}", 0, 0)
        wrong = None if self.golden is None else self.fusion.why_wrong(artifact, made, self.folder, self.golden)
        if wrong in (None, "not run"):
            artifact["sampler"] = made
        else:
            self.written.mismatches.append(str(wrong))
            for file in files_of(made):
                (self.folder / file).unlink()
        # It is made of the score graph, and checked by itself.
        if artifact["precision"] not in self.alone and artifact["target"] in ("onnx", "onnxruntime"):
            self.alone.add(artifact["precision"])
            self._stand_alone(self.fusion, artifact)

    def _stand_alone(self, fusion: Fusion, artifact: Artifact) -> None:
        """Writes the whole chain of a score graph in one file; one that is wrong when it is run is left out."""
        made = fusion.write_standalone(artifact, self.models["fp32"], self.folder, self.batch, self.tell)
        if made is None:
            return
        found = next((found for found in self.written.verifications if found.path == artifact["path"]), None)
        # What runs the score graph runs this too.
        if self.golden is not None and found is not None and not found.reason:
            self.tell(f"verifying {made['path']}", 0, 0)
            wrong = fusion.why_standalone_wrong(
                artifact, made, self.models["fp32"], self.folder, self.golden, found.applied
            )
            if wrong is not None:
                self.written.mismatches.append(wrong)
                for file in files_of(made):
                    (self.folder / file).unlink()
                return
        artifact["standalone"] = made

    def _remove(self, artifact: Artifact, lines: list[str]) -> None:
        for file in files_of(artifact):
            (self.folder / file).unlink()
        if artifact["target"] == "onnx":
            self.refused[artifact["precision"]] = lines


def write_artifacts(
    plan: Sequence[tuple[str, str]],
    models: Mapping[str, ir.Model],
    traced: ScoreGraph,
    golden: dict[str, np.ndarray] | None,
    *,
    spec: ModelSpec,
    config: SamplerConfig,
    conditions: Conditions,
    data: np.ndarray | None,
    batch: tuple[int, int, int],
    gating: Gating,
    networks: SampleNetworks | None,
    weight_bits: int | None,
    ranges: str,
    splits: bool,
    fuse: int | None,
    folder: Path,
    scratch: Path,
    tell: Progress,
) -> Written:
    """Writes the artifacts of a plan; one that fails is left out and the others are written.

    Args:
        plan: (target, precision) in the order of work; a plan for TensorRT comes after its ONNX file.
        models: graphs by precision, for those that are not calibrated.
        traced: what they were lowered from.
        golden: PyTorch's answers; None compares nothing.
        spec: what the energy takes.
        config: the sampler's settings.
        conditions: conditioning inputs to calibrate and to judge at.
        data: states that chains start from; what is calibrated on them is in `conditions`.
        batch: smallest, most frequent and largest batch.
        gating: what is judged.
        networks: those that `gating` names; None for x itself and clusters.
        weight_bits: of INT8 weights for OpenVINO, 7 or 8; None for what this CPU needs.
        ranges: how ranges of activations are chosen, a name in `OBSERVERS`.
        splits: whether what does not depend on x becomes a prologue.
        fuse: steps that a sampler graph takes in one call; None writes none.
        folder: the bundle's.
        scratch: a folder for files that do not stay.
        tell: progress.
    """
    with ExitStack() as stack:
        calibrated = stack.enter_context(
            CalibratedArtifacts(
                models["fp32"],
                spec,
                config,
                scratch,
                gating.rules,
                conditions,
                data,
                batch,
                splits,
                golden,
                tell,
                weight_bits,
                networks,
                ranges,
            )
        )
        fusion = (
            None
            if fuse is None
            else Fusion(fuse, config, splits, spec.scales, may_be_infinite_alone(models["fp32"].graph))
        )
        low_gate = LowGate(gating, calibrated, golden, folder, tell)
        writer = _Writer(models, traced, golden, batch, folder, tell, gating, calibrated, splits, fusion, low_gate)
        writer.asked = {precision for _, precision in plan}
        for index, (name, precision) in enumerate(plan):
            tell(f"building {name} {precision}", index, len(plan))
            if name == "tensorrt" and precision in writer.refused:
                writer.refused[precision].append(
                    f"no tensorrt plan in {precision}: the ONNX file that it is built from failed"
                )
            elif precision in CALIBRATED:
                writer.calibrate(name, precision)
            else:
                writer.plain(name, precision)
        if writer.calibrations:
            write_calibration(folder, writer.calibrations, calibrated.states, conditions.calibration)
        return writer.written
