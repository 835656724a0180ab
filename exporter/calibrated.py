"""INT8 and mixed-precision artifacts: calibrated on the model's own chains, judged by the samples that they draw."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ..calibration.gate_rules import GateRules
from ..calibration.quantization.calibrate import Scheme
from ..calibration.quantization.correct_score import correct_score
from ..calibration.quantization.quantizer import Quantizer
from ..calibration.sample_networks import SampleNetworks
from ..calibration.search_log import SearchLog
from ..calibration.sensitivity import Sensitivity, measure_sensitivity
from ..calibration.states import States, record_states
from ..calibration.verdict import GateResult
from ..runtime.backends.openvino import OpenVinoEngine
from ..runtime.backends.openvino_saturation import SAFE_WEIGHT, saturates
from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
from ..runtime.errors import EngineMismatch, QualityGateError, UnsupportedOperation
from ..runtime.manifest import ModelSpec
from ..runtime.split_engine import SplitEngine
from .agreement import agrees
from .conditions import Conditions
from .precision import keep_in_float32, typed
from .split import Split, split
from .targets import Artifact, Progress, add_note, target
from .targets.score import files_of, write_score
from .verify import verify_artifact
from .written_engine import written_engine

if TYPE_CHECKING:
    from ..calibration.quality_gate import QualityGate

__all__ = ["Calibrated", "CalibratedArtifacts", "steps_of"]

_STATES, _STATE_NUMBERS = (1024, 8192), 2**17
"""States that grids and weights come from: as many as make up 2**17 numbers of x, within these limits."""
_CHAINS = 1024
"""Chains that the states come from. A gradient error of 15 % that is the same along a cold chain and differs between
chains leaves a mean of 0.5 % with so many, which is what a correction of the mean can see."""
_LEAST_SHARE = 0.3
"""Share of the multiplications in INT8 below which a graph is not called INT8 any more."""
_SENSITIVITY_STATES = 128
_SENSITIVITIES = "sensitivities"
"""Their key in the log of a search, whose first line says what they are of."""
_EVENS = (("forward", "gradient"), ("forward",), ())
"""Ways to even out channels, in the order in which they are tried."""


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
    """Makes the INT8 and mixed artifacts of one export.

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
    _schemes: dict[str, Scheme] = field(default_factory=dict)
    _quantizers: dict[Scheme, Quantizer] = field(default_factory=dict)
    _sensitivities: dict[Scheme, list[Sensitivity]] = field(default_factory=dict)
    _fp32: Engine | None = None
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
                progress=self.tell,
            )
        return self._gate

    def write_int8(self, name: str, folder: Path) -> Calibrated:
        """Writes the INT8 artifact of a target.

        All layers that gain from it run in INT8 at first. Where the gate refuses that, the layers that do the most harm
        for the work they do are kept in float32, twice as many each time.

        Args:
            name: of the target; one whose files run here.
            folder: where the artifact goes.

        Raises:
            QualityGateError: nothing passes with at least 30 % of the work in INT8.
        """
        scheme = self.scheme(name)
        quantizer = self.quantizer(scheme)
        if not quantizer.default:
            raise QualityGateError(
                f"int8 for {name}: this energy has no layer that would gain from INT8, as convolutions and products with "
                "weights do where they are a good part of the work; export it in fp32, fp16 or bf16"
            )
        kept: dict[str, str] = {}
        while True:
            int8 = [layer for layer in quantizer.default if layer not in kept]
            artifact = self.write(name, folder, quantizer, int8, "int8", "fp32")
            self.tell(f"judging {artifact['path']}", 0, 0)
            refused, result = self.verdict(artifact, folder)
            if not refused:
                self.note_int8(artifact, folder)
                return Calibrated(artifact, self.describe(scheme, int8, kept), result)
            more = self._most_harmful(scheme, kept)
            if more is None:
                for file in files_of(artifact):
                    (folder / file).unlink()
                raise QualityGateError(
                    f"int8 for {name} fails the quality gate: {refused}. That is with {len(kept)} of {len(quantizer.default)} "
                    f"layers kept in float32; with more, less than {_LEAST_SHARE:.0%} of the work would be in INT8. Export "
                    "mixed, bf16 or fp16, or add --no-gate to have it written as it is"
                )
            kept |= {layer: f"{why}; with it in INT8: {refused}" for layer, why in more.items()}
            self.tell(f"{refused}: keeping {len(kept)} of {len(quantizer.default)} layers in float32", 0, 0)

    def open(self, artifact: Artifact, folder: Path) -> Engine:
        """The engine of an artifact, not opened yet; see `written_engine`. Its chains begin as they will from the bundle."""
        return written_engine(artifact, folder, self.scratch, scales=self.spec.scales)

    def note_int8(self, artifact: Artifact, folder: Path) -> None:
        """Writes into an artifact's note how much of it its engine runs in INT8, where the engine can tell."""
        if artifact["target"] != "openvino":
            return
        with self.open(artifact, folder) as engine:
            steps = steps_of(engine)
            assert isinstance(steps, OpenVinoEngine)
            steps.run(self.states.inputs(slice(0, self.batch[1])))
            low, total = steps.int8_layers
        said = f"OpenVINO runs {low} of {total} convolutions and matrix products in INT8"
        if self.scheme(artifact["target"]).largest_weight == SAFE_WEIGHT:
            said += ", with weights of 7 bits, whose products overflow on no CPU"
        add_note(artifact, said)

    def prologue_int8(self, artifact: Artifact, folder: Path) -> tuple[int, int] | None:
        """How many of the convolutions and matrix products of an artifact's prologue OpenVINO runs in INT8, and of how many."""
        if artifact["target"] != "openvino":
            return None
        with self.open(artifact, folder) as engine:
            assert isinstance(engine, SplitEngine) and isinstance(engine.prologue, OpenVinoEngine)
            engine.prepare({name: rows[:1] for name, rows in self.conditions.calibration.items()})
            return engine.prologue.int8_layers

    def verdict(self, artifact: Artifact, folder: Path) -> tuple[str, GateResult | None]:
        """Why the gate refuses an artifact, or "", and what it found; the score is asked first, as it needs no samples."""
        gate = self.gate
        if gate is None:
            return "", None
        with self.open(artifact, folder) as engine:
            fidelity = gate.fidelity(engine)
            refused = gate.refused_by_score(fidelity)
            if refused:
                return refused, None
            result = gate.judge(artifact["path"], engine, fidelity=fidelity)
        return "" if result.passed else result.reason, result

    def write(
        self,
        name: str,
        folder: Path,
        quantizer: Quantizer,
        int8: Collection[str],
        precision: str,
        other: str,
        wide: Collection[str] = (),
    ) -> Artifact:
        """Writes these layers in INT8, `wide` in float32, and the rest in another precision; returns its entry."""
        model = quantizer.model(int8)
        correct_score(self.steps, model, quantizer.layers, self.states, batch=self.batch[1])
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
                data_cond=None if real is None else real.conditions,
                max_batch=max(1, 2**18 // numbers),
                progress=lambda done, total: self.tell("recording states along chains", done, total),
            )
            read = self.fp32.prepare(recorded.conditions) if recorded.conditions else {}
            self._states = replace(recorded, conditions={name: np.array(array) for name, array in read.items()})
        return self._states

    def scheme(self, name: str) -> Scheme:
        """How a target wants its grids, found once.

        Ways to even out channels are tried with all layers in INT8, until one passes what the gate asks of the score; where none does,
        the one that comes nearest is taken. One whose engine does not compute what its graph says (`agreement.py`) is out: the gate would
        see it, and the layers would be blamed. Where that are all, layers that the engine gets wrong by themselves stay in float32.

        Raises:
            QualityGateError: no engine of this target computes its graph.
        """
        if name not in self._schemes:
            plain = replace(_scheme_of(name, self.weight_bits), observer=self.ranges)
            found = self._best_form(name, plain)
            if found is None and (wrong := self._wrong_layers(name, replace(plain, evens=()))):
                found = self._best_form(name, replace(plain, wrong=wrong))
            if found is None:
                raise QualityGateError(
                    f"int8 for {name}: its engine computes something else than its INT8 graph in each of {len(_EVENS)} forms; "
                    "export it in fp32, fp16 or bf16, or with another version of the backend"
                )
            self._schemes[name] = found
        return self._schemes[name]

    def _best_form(self, name: str, plain: Scheme) -> Scheme | None:
        """A scheme with the way to even out channels that passes, or comes nearest; None where the engine is wrong in all of them."""
        nearest, best = np.inf, None
        for evens in _EVENS:
            scheme = replace(plain, evens=evens)
            off = self._score_of(name, self.quantizer(scheme))
            if off < nearest:
                nearest, best = off, scheme
            if off <= 1:
                break
        return best

    def _wrong_layers(self, name: str, scheme: Scheme) -> tuple[str, ...]:
        """The layers with one of which alone in INT8 the engine computes something else than its graph; none where too little is left."""
        quantizer = self.quantizer(scheme)
        layers = [layer for layer in quantizer.layers if layer.name in quantizer.default]
        wrong = []
        for number, layer in enumerate(layers):
            self.tell(f"looking for what {name} gets wrong in INT8", number, len(layers))
            with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
                graph = quantizer.model({layer.name})
                artifact = self._written(name, Path(scratch), graph, self.halves, "int8")
                with self.open(artifact, Path(scratch)) as engine:
                    if not self._agrees(engine, graph):
                        wrong.append(layer)
        left = sum(layer.macs for layer in layers) - sum(layer.macs for layer in wrong)
        if not wrong or left < _LEAST_SHARE * quantizer.work:
            return ()
        names = ", ".join(layer.name for layer in wrong)
        self.tell(
            f"{name} gets {len(wrong)} of {len(layers)} layers wrong in INT8 and keeps them in float32: {names}", 0, 0
        )
        return tuple(layer.name for layer in wrong)

    def _score_of(self, name: str, quantizer: Quantizer) -> float:
        """Gain and bias of the gradient with all layers in INT8, the larger, in units of what passes; infinite for a wrong engine."""
        if not quantizer.default:
            return 0.0
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            folder = Path(scratch)
            artifact = self.write(name, folder, quantizer, quantizer.default, "int8", "fp32")
            assert self.latest is not None
            with self.open(artifact, folder) as engine:
                if not self._agrees(engine, self.latest):
                    self.tell(f"{name} computes something else than its INT8 graph: trying another form", 0, 0)
                    return float("inf")
                if self.gate is None:
                    return 0.0
                verdicts = self.gate.score_verdicts(self.gate.fidelity(engine))
        off = max((verdict.ratio for verdict in verdicts), default=0.0)
        return off if np.isfinite(off) else sys.float_info.max  # far off, and still what its graph says

    def _agrees(self, engine: Engine, graph: ir.Model) -> bool:
        return agrees(steps_of(engine), graph, self.steps, self.states, batch=self.batch[1])

    def quantizer(self, scheme: Scheme) -> Quantizer:
        """The calibration for a scheme, made once."""
        if scheme not in self._quantizers:
            self._quantizers[scheme] = Quantizer(
                self.steps, self.states, scheme, batch=self.batch[1], progress=self.tell
            )
        return self._quantizers[scheme]

    def sensitivities(self, scheme: Scheme, log: SearchLog | None = None) -> list[Sensitivity]:
        """What each layer that may run in INT8 does to the score, the most harm for its work first.

        Args:
            scheme: how the target wants its grids.
            log: of a search with this scheme. What it has is not measured again, and takes the place of what was; what it has not is
                added to it.
        """
        quantizer = self.quantizer(scheme)
        layers = [layer for layer in quantizer.layers if layer.name in quantizer.default]
        if log is not None and _SENSITIVITIES in log.trials:
            entries = log.trials[_SENSITIVITIES]["layers"]
            self._sensitivities[scheme] = [Sensitivity.from_dict(entry, layers) for entry in entries]
        if scheme not in self._sensitivities:
            chosen = np.linspace(0, len(self.states) - 1, min(_SENSITIVITY_STATES, len(self.states))).astype(int)
            found = measure_sensitivity(
                self.steps, quantizer, layers, self.states.part(chosen), batch=self.batch[1], progress=self.tell
            )
            # By the whole error, though it is gain and bias that the gate limits: at so few states these are mostly chance. Of three
            # networks, one of them the digits, gain and bias were measured at all states too (1,000 to 8,000). Their order of layers had a
            # rank correlation of 0.77 to 1.00 with that of the whole error at 128 states, and of 0.71 to 0.94 with that of gain and bias
            # at these; in none of nine draws was the second better.
            self._sensitivities[scheme] = sorted(found, key=lambda entry: -(entry.error**2) / entry.layer.macs)
        if log is not None and _SENSITIVITIES not in log.trials:
            log.add(_SENSITIVITIES, {"layers": [entry.to_dict() for entry in self._sensitivities[scheme]]})
        return self._sensitivities[scheme]

    def describe(
        self,
        scheme: Scheme,
        int8: Collection[str],
        kept: dict[str, str],
        other: str = "fp32",
        wide: Collection[str] = (),
    ) -> list[dict[str, Any]]:
        """What calibration.json says of each layer: that of `Quantizer.describe`, and what it does alone where that was measured."""
        entries = self.quantizer(scheme).describe(int8, kept, other, wide)
        alone = {entry.layer.name: entry.parts() for entry in self._sensitivities.get(scheme, ())}
        return [entry | ({"alone": alone[entry["name"]]} if entry["name"] in alone else {}) for entry in entries]

    def _most_harmful(self, scheme: Scheme, kept: Collection[str]) -> dict[str, str] | None:
        """The layers to keep next, as many as are kept already, with what each does; None where too little is left."""
        quantizer = self.quantizer(scheme)
        order = self.sensitivities(scheme)
        chosen = [entry for entry in order if entry.layer.name not in kept][: max(1, len(kept))]
        out = {*kept, *(entry.layer.name for entry in chosen)}
        total = quantizer.work
        left = sum(
            layer.macs for layer in quantizer.layers if layer.name in quantizer.default and layer.name not in out
        )
        if not chosen or left < _LEAST_SHARE * total:
            return None
        return {entry.layer.name: entry.said for entry in chosen}


def steps_of(engine: Engine) -> Engine:
    """The engine of what changes from step to step."""
    return engine.score if isinstance(engine, SplitEngine) else engine


def _scheme_of(name: str, weight_bits: int | None) -> Scheme:
    """How a target wants its grids: TensorRT, which builds from the ONNX file, takes symmetric ones only, and fuses sums.

    OpenVINO's products of bytes overflow on some CPUs. What is exported on one of them is made for it, unless bits are asked for.
    """
    for_tensorrt = name in ("onnx", "tensorrt")
    scheme = Scheme(asymmetric=not for_tensorrt, fuses_sums=for_tensorrt)
    if name == "openvino" and (weight_bits == 7 or (weight_bits is None and saturates())):
        return replace(scheme, largest_weight=SAFE_WEIGHT)
    return scheme
