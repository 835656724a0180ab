"""What INT8 and mixed-precision artifacts are made with: states of the model's own chains, and a gate that asks for their samples."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ..calibration.executed_layers import note_not_int8
from ..calibration.gate_rules import GateRules
from ..calibration.int8_graphs import Int8Graphs
from ..calibration.metrics.score_fidelity import StageFidelity
from ..calibration.quantization.calibrate import Scheme
from ..calibration.rounded_energies import energy_rounding
from ..calibration.sample_networks import SampleNetworks
from ..calibration.states import States, record_states
from ..calibration.verdict import GateResult
from ..runtime.backends.openvino import OpenVinoEngine
from ..runtime.backends.openvino_saturation import SAFE_WEIGHT
from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
from ..runtime.errors import EngineMismatch, UnsupportedOperation
from ..runtime.fitting_batch import fitting_batch
from ..runtime.int8_said import int8_said
from ..runtime.manifest import ModelSpec
from ..runtime.method import replicas
from ..runtime.shared_rows import rows_apart
from ..runtime.split_engine import SplitEngine
from .conditions import Conditions
from .precision import keep_in_float32, typed
from .split import Split, split
from .target_scheme import FoundScheme, SchemeSearch, plain_scheme
from .targets import Artifact, Progress, add_note, target
from .targets.score import write_score
from .verify import verify_artifact
from .written_engine import steps_of, written_engine

if TYPE_CHECKING:
    from ..calibration.quality_gate import QualityGate

__all__ = ["Calibrated", "CalibratedArtifacts"]

_STATES, _STATE_NUMBERS = (1024, 8192), 2**17
"""States that grids and weights come from: as many as make up 2**17 numbers of x, within these limits."""
_CHAINS = 1024
"""Chains that the states come from. A gradient error of 15 % that is the same along a cold chain and differs between
chains leaves a mean of 0.5 % with so many, which is what a correction of the mean can see."""

_ENDS = 64
"""Ends of chains at which rounded energies are looked at, four states at each: their standard deviation is then right within some 5 %."""


@dataclass
class Calibrated:
    """An artifact and how it came to be."""

    artifact: Artifact
    layers: list[dict[str, Any]]
    """What calibration.json says of each layer."""
    gate: GateResult | None
    """None where nothing was judged."""
    other: str = "fp32"
    """Precision of what is not in INT8."""
    prologue: str = ""
    """What calibration.json says of its prologue, where it has one."""


@dataclass
class CalibratedArtifacts:
    """Writes, opens and judges the INT8 and mixed artifacts of one export; `write_int8` and `write_mixed` choose what is in them.

    A context manager: it keeps a float32 engine open and states on disk, and gives both up at the end. What several
    artifacts need (states, calibrations, FP32's samples) is made once, when it is first asked for.

    Args:
        model: the lowered float32 graph.
        spec: what the energy takes.
        config: the sampler's settings.
        scratch: an existing folder for files of its own.
        rules: of the gate; None judges nothing.
        conditions: conditioning inputs to calibrate and to judge at.
        data: states [M, *S]: chains start there with init="data". What the calibration sees of them is in the conditions.
        batch: smallest, most frequent and largest batch; engines are timed at the second.
        splits: whether what does not depend on x becomes a prologue.
        golden: PyTorch's answers; None where nothing is compared with them.
        tell: progress.
        weight_bits: of INT8 weights for OpenVINO, 7 or 8; None for what this CPU needs.
        networks: what the gate compares samples by beside x; None for x itself.
        ranges: how ranges of activations are chosen, a name in `OBSERVERS`.
    """

    model: ir.Model
    spec: ModelSpec
    config: SamplerConfig
    scratch: Path
    rules: GateRules | None
    conditions: Conditions
    data: np.ndarray | None
    batch: tuple[int, int, int]
    splits: bool
    golden: dict[str, np.ndarray] | None
    tell: Progress
    weight_bits: int | None = None
    networks: SampleNetworks | None = None
    ranges: str = "mse"
    _stack: ExitStack = field(default_factory=ExitStack)
    _found: dict[str, FoundScheme] = field(default_factory=dict)
    _fp32: Engine | None = None
    _own: dict[str, Engine] = field(default_factory=dict)
    _states: States | None = None
    _gate: QualityGate | None = None
    latest: ir.Model | None = None
    """The graph of the artifact that was written last; its steps' part, where it is split."""

    def __enter__(self) -> CalibratedArtifacts:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @cached_property
    def halves(self) -> Split | None:
        """The float32 graph's prologue and steps, where it is split. What is calibrated is the steps; see `lower_prologue` for the other."""
        return split(self.model) if self.splits else None

    @property
    def steps(self) -> ir.Model:
        """The float32 graph of what changes from step to step: what is calibrated."""
        return self.model if self.halves is None else self.halves.score

    @property
    def fp32(self) -> Engine:
        """The open float32 engine that everything is compared with: OpenVINO's where it is installed, takes the graph and agrees with PyTorch.

        Raises:
            UnsupportedOperation: no backend takes the graph.
            EngineMismatch: no float32 engine agrees with PyTorch, so that there is nothing to compare with.
        """
        if self._fp32 is None:
            names = [name for name in ("openvino", "onnxruntime") if target(name).available() is None]
            refused: list[UnsupportedOperation] = []
            wrong: list[str] = []
            for name in names:
                try:
                    artifact = write_score(
                        name, self.model, self.scratch, precision="fp32", batch=self.batch, splits=self.splits
                    )
                    agrees = self.golden is None or verify_artifact(artifact, self.scratch, self.golden).passed
                except UnsupportedOperation as error:
                    refused.append(error)
                    continue
                if agrees:
                    self._fp32 = self._stack.enter_context(self.open(artifact, self.scratch))
                    return self._fp32
                wrong.append(name)
                self.tell(f"fp32 on {name} disagrees with PyTorch: it is no reference for other precisions", 0, 0)
            if not wrong:
                raise refused[0]
            raise EngineMismatch(
                f"fp32 on {' and '.join(wrong)} disagrees with PyTorch, so there is nothing that lower precisions could be compared "
                "with; export fp32 alone to see where it differs"
            )
        return self._fp32

    def float32(self, name: str) -> Engine:
        """The open float32 engine of a target whose files run here: what its other engines are timed beside, and end on.

        Raises:
            UnsupportedOperation: the target does not take the graph.
        """
        if self.fp32.backend == name:
            return self.fp32
        if name not in self._own:
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            artifact = write_score(name, self.model, folder, precision="fp32", batch=self.batch, splits=self.splits)
            self._own[name] = self._stack.enter_context(self.open(artifact, folder))
        return self._own[name]

    @cached_property
    def rows(self) -> int:
        """Chains in one engine call; all replicas of a tempered one go into the same."""
        return max(fitting_batch(self.spec), replicas(self.config))

    @property
    def gate(self) -> QualityGate | None:
        """The gate with FP32's side; None where nothing is judged."""
        if self.rules is not None and self._gate is None:
            from ..calibration.quality_gate import (
                QualityGate,
            )  # needs libraries that an export without it has no use for

            self._gate = QualityGate(
                self.fp32,
                self.spec,
                self.config,
                self.rules,
                cond=self.conditions.judged,
                data=self.data,
                networks=self.networks,
                max_batch=self.rows,
                progress=self.tell,
            )
        return self._gate

    @property
    def states(self) -> States:
        """States along the model's own chains, recorded once; their conditions are what the steps read, a prologue's features."""
        if self._states is None:
            numbers = int(np.prod(self.spec.x.shape))
            count = int(np.clip(_STATE_NUMBERS // numbers, *_STATES))
            folder = self.scratch / "states"
            folder.mkdir()
            real = self.conditions.data
            recorded = record_states(
                self.fp32,
                self.config,
                self.spec.x.shape,
                folder,
                count=count,
                chains=_CHAINS,
                seed=(self.rules.seed if self.rules else 0) + 3,
                cond=self.conditions.calibration,
                start=self.data,
                data=None if real is None else real.x,
                data_rows=None if real is None else real.rows,
                data_cond=None if real is None else real.conditions,
                max_batch=self.rows,
                progress=lambda done, total: self.tell("recording states along chains", done, total),
            )
            read, rows = {}, recorded.conditions
            if rows:
                read = rows_apart(self.fp32.prepare(rows), len(next(iter(rows.values()))))
            self._states = replace(recorded, conditions={name: np.array(array) for name, array in read.items()})
        return self._states

    @cached_property
    def graphs(self) -> Int8Graphs:
        """The steps with any of their layers in INT8."""
        return Int8Graphs(self.steps, self.states, batch=self.batch[1], progress=self.tell)

    def scheme(self, name: str) -> Scheme:
        """How a target wants its grids, found once; see `SchemeSearch.find`."""
        if name not in self._found:
            search = SchemeSearch(name, self.graphs, partial(self._opened, name), self.gate, self.tell)
            self._found[name] = search.find(plain_scheme(name, self.weight_bits, self.ranges))
        return self._found[name].scheme

    def fidelity_of_all(self, name: str) -> tuple[StageFidelity, ...] | None:
        """The score of a target's engine with all layers in INT8 and the rest in float32, which its scheme was chosen by; None without a gate."""
        self.scheme(name)
        return self._found[name].fidelity

    def write(
        self,
        name: str,
        folder: Path,
        int8: Collection[str],
        precision: str,
        other: str,
        wide: Collection[str] = (),
    ) -> Artifact:
        """Writes these layers in INT8, `wide` in float32, and the rest in another precision; returns its entry.

        Args:
            name: of the target; one whose files run here.
            folder: where the artifact goes.
            int8: names of the layers in INT8.
            precision: of the artifact: int8 or mixed.
            other: precision of the rest.
            wide: names of the layers that are in float32 all the same.
        """
        model = self.graphs.corrected(self.scheme(name), int8)
        halves = self.halves
        if other != "fp32":
            keep_in_float32(model, wide)
        options: dict[str, Any] = {}
        if other != "fp32":
            if name == "openvino":
                options = {"inference_precision": "bf16" if other == "bf16" else "f16"}
            else:
                model = typed(model, other)
                if halves is not None:
                    halves = halves._replace(prologue=typed(halves.prologue, other))
        artifact = self._written(name, folder, model, halves, precision)
        artifact["options"] |= options
        self.latest = model
        return artifact

    def _written(self, name: str, folder: Path, model: ir.Model, halves: Split | None, precision: str) -> Artifact:
        return write_score(
            name,
            model if halves is None else halves._replace(score=model),
            folder,
            precision=precision,
            batch=self.batch,
            splits=self.splits,
            progress=self.tell,
        )

    def open(self, artifact: Artifact, folder: Path) -> Engine:
        """The engine of an artifact, not opened yet; see `written_engine`. Its chains begin as they will from the bundle."""
        return written_engine(artifact, folder, self.scratch, scales=self.spec.scales)

    @contextmanager
    def _opened(self, name: str, steps: ir.Model) -> Iterator[Engine]:
        """The open engine of a target with these steps, in files that are gone at the end."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            folder = Path(scratch)
            artifact = self._written(name, folder, steps, self.halves, "int8")
            with self.open(artifact, folder) as engine:
                yield engine

    def verdict(
        self, artifact: Artifact, folder: Path, fidelity: Sequence[StageFidelity] | None = None
    ) -> tuple[str, GateResult | None]:
        """Why the gate refuses an artifact, or "", and what it found; the score, if it is not known, is asked first, as it needs no samples."""
        gate = self.gate
        if gate is None:
            return "", None
        with self.open(artifact, folder) as engine:
            if fidelity is None:
                fidelity = gate.fidelity(engine)
            refused = gate.refused_by_score(fidelity)
            if refused:
                return refused, None
            result = gate.judge(artifact["path"], engine, fidelity=fidelity)
        return "" if result.passed else result.reason, result

    def note_rounding(self, artifact: Artifact, folder: Path) -> None:
        """Writes into an artifact's entry by how much it rounds differences of energies where FP32's chains end, if that is a number."""
        ends = np.flatnonzero((self.states.step == self.states.step.max()) & ~self.states.large)[:_ENDS]
        rows = self.states.row[ends]
        cond = {name: array[rows] for name, array in self.conditions.calibration.items()}
        with self.open(artifact, folder) as engine:
            found = energy_rounding(engine, self.fp32, self.states.x[ends], cond, self.config)
        if found is not None and math.isfinite(found):
            artifact["energy_rounding"] = float(f"{found:.3g}")

    def note_int8(self, artifact: Artifact, folder: Path, layers: list[dict[str, Any]]) -> None:
        """Writes into an artifact's note, and its layers' entries, what of it its engine runs in INT8, where the engine can tell."""
        if artifact["target"] != "openvino":
            return
        with self.open(artifact, folder) as engine:
            steps = steps_of(engine)
            assert isinstance(steps, OpenVinoEngine)
            steps.run(self.states.inputs(slice(0, self.batch[1])))
            low, total = steps.int8_layers
            others = note_not_int8(steps, layers)
        said = int8_said("OpenVINO", low, total) + (others and f" ({others})")
        if self.scheme(artifact["target"]).largest_weight == SAFE_WEIGHT:
            said += ", with weights of 7 bits, whose products overflow on no CPU"
        add_note(artifact, said)

    def prologue_int8(self, artifact: Artifact, folder: Path, layers: list[dict[str, Any]]) -> str | None:
        """How many of the convolutions and matrix products of an artifact's prologue OpenVINO runs in INT8; as in `note_int8`."""
        if artifact["target"] != "openvino":
            return None
        with self.open(artifact, folder) as engine:
            assert isinstance(engine, SplitEngine) and isinstance(engine.prologue, OpenVinoEngine)
            engine.prepare({name: rows[:1] for name, rows in self.conditions.calibration.items()})
            low, total = engine.prologue.int8_layers
            others = note_not_int8(engine.prologue, layers)
        return f"OpenVINO: {low} of {total}" + (others and f"; {others}")
