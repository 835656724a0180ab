"""What a comparison found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from ..runtime.json_values import json_values
from .candidate import NotRun
from .chain_mixing import ChainMixing
from .chain_plan import ChainPlan
from .energy_use import EnergyUse
from .exact_acceptance import ExactAcceptance
from .histogram import Histograms
from .latency import Latency
from .layer_precisions import Layers
from .likelihood import Likelihood
from .metrics.score_fidelity import StageFidelity
from .mode_shares import ModeShares
from .sample_figures import SampleFigures
from .verdict import GateResult, MetricVerdict

__all__ = ["SCHEMA_VERSION", "Comparison", "EngineResult", "ModelSummary"]

SCHEMA_VERSION = 1
"""Of report.json. It grows when an entry changes its meaning or goes away; new entries alone leave it."""


@dataclass(frozen=True)
class ModelSummary:
    """A bundle, as a reader of the report needs it.

    Attributes:
        name: name of the bundle.
        path: where it was.
        model: the model's own name.
        shape: shape of one x.
        cond: shapes of the conditioning inputs by name.
        sampler: the settings that it was sampled with.
        created_with: versions of what wrote the bundle.
        same_as_first: whether its FP32 energy is the first bundle's; where not, gradients are not compared.
    """

    name: str
    path: str
    model: str
    shape: tuple[int, ...]
    cond: dict[str, tuple[int, ...]]
    sampler: dict[str, Any]
    created_with: dict[str, str]
    same_as_first: bool = True


@dataclass(frozen=True)
class EngineResult:
    """One engine.

    Attributes:
        name: as in the tables.
        model: name of the bundle.
        backend: the library that runs it.
        precision: as in the manifest, or a schedule; "external" for a graph made elsewhere.
        external: whether the graph was made elsewhere.
        bytes: size of its files.
        note: what a reader should know about it.
        gate: what the gate found in samples drawn with another seed than the reference's; None where it could not be
            judged. The reference has one too: FP32 with another seed, judged as a candidate is.
        fidelity: its gradients beside FP32's, stage by stage; empty for another model.
        latency: time of a step, by batch size.
        not_timed: why one of them is missing; empty where none is.
        energy: electrical energy, where there are sensors.
        same_noise_distance: rms difference from FP32's samples under the same noise, relative to the rms spread of
            FP32's samples; None for the reference, and where these have no spread.
        figures: of its samples, which the gate does not judge by; None where they are not finite. The reference's compare
            FP32 with itself.
        mixing: R-hat and effective sample size of the FP32 energy along a few chains; None where that says nothing.
        exact: how often exact sampling accepts what its chains propose; None where that was not asked for, or cannot be had.
        not_exact: why it cannot be had; empty where it can, or was not asked for.
        auroc: how well its energy tells given data from given outliers; None without such data.
        front: whether no other engine is both closer to FP32 and faster.
        failure: why it could not be run to the end; empty where it was.
    """

    name: str
    model: str
    backend: str
    precision: str
    external: bool
    bytes: int
    note: str = ""
    gate: GateResult | None = None
    fidelity: tuple[StageFidelity, ...] = ()
    latency: tuple[Latency, ...] = ()
    not_timed: str = ""
    energy: EnergyUse | None = None
    same_noise_distance: float | None = None
    figures: SampleFigures | None = None
    mixing: ChainMixing | None = None
    exact: ExactAcceptance | None = None
    not_exact: str = ""
    auroc: float | None = None
    front: bool = False
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether it passes the gate."""
        return self.gate is not None and self.gate.passed

    @property
    def worst(self) -> MetricVerdict | None:
        """The verdict to name first; None without a gate.

        Of the ratios to the noise floor that failed it is the largest; where none did, the failure of another kind
        that is furthest beyond its limit; where nothing failed, the largest ratio.
        """
        if self.gate is None:
            return None
        failed = [verdict for verdict in self.gate.verdicts if not verdict.passed]
        failed_ratios = [verdict for verdict in self.ratios if not verdict.passed]
        return max(failed_ratios or failed or self.ratios, key=_beyond, default=None)

    @property
    def ratios(self) -> list[MetricVerdict]:
        """The gate's ratios to the seed noise floor; none without a gate."""
        return self.gate.ratios if self.gate else []

    @property
    def quality(self) -> float | None:
        """How far off it is, about 1 for FP32 itself; None without a gate.

        The ratio of `worst`, where a limit of another kind counts as if it were the gate.
        """
        worst = self.worst
        return None if worst is None or self.gate is None else self.gate.gate * _beyond(worst)

    def step_time(self, batch: int) -> Latency | None:
        """The time of a step at a batch size; None where it was not measured."""
        return next((entry for entry in self.latency if entry.batch == batch), None)


@dataclass(frozen=True)
class Comparison:
    """Engines side by side.

    Attributes:
        created: when, in UTC, as ISO 8601.
        seconds: how long it took.
        models: the bundles; the first one's FP32 engine is the reference.
        reference: name of the reference engine.
        engines: all of them, the reference first.
        not_run: engines that could not be run here, with the reason.
        plan: number of chains, and the difference that they can show.
        seeds: of the reference's samples, the candidates' and the trajectory.
        batches: batch sizes that were timed, smallest first.
        energies: histograms of the FP32 energy of every engine's samples.
        modes: shares of the modes, where there is more than one.
        likelihood: bounds of the log density of all samples under FP32's model; None where they were not asked for.
        features: what samples were compared by.
        layers: what calibrated bundles say of their layers.
        power: one sentence on the power sensors.
        device: the machine.
        toolchain: versions of the libraries.
        pictures: samples drawn under the same noise, [N, *S] by engine; for the report alone, not in `to_dict`.
        mode_pictures: [K, *S], the reference's sample nearest to the middle of each mode that is shown; likewise.
    """

    created: str
    seconds: float
    models: tuple[ModelSummary, ...]
    reference: str
    engines: tuple[EngineResult, ...]
    not_run: tuple[NotRun, ...]
    plan: ChainPlan
    seeds: dict[str, int]
    batches: tuple[int, ...]
    energies: Histograms
    modes: ModeShares | None
    features: str
    layers: tuple[Layers, ...]
    power: str
    device: dict[str, str]
    toolchain: dict[str, str]
    likelihood: Likelihood | None = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    mode_pictures: np.ndarray | None = field(default=None, repr=False)

    @property
    def candidates(self) -> tuple[EngineResult, ...]:
        """Every engine but the reference."""
        return tuple(engine for engine in self.engines if engine.name != self.reference)

    @property
    def failures(self) -> list[str]:
        """One line for each candidate that does not pass, with the reason."""
        return [
            f"{engine.name}: {engine.failure or (engine.gate.reason if engine.gate else 'not judged')}"
            for engine in self.candidates
            if not engine.passed
        ]

    @property
    def not_exact(self) -> list[str]:
        """One line for each reason why engines have no acceptance of exact sampling, with their names."""
        return self._by_reason("not_exact")

    @property
    def not_timed(self) -> list[str]:
        """One line for each reason why engines have no time of a step, with their names."""
        return self._by_reason("not_timed")

    def _by_reason(self, of: str) -> list[str]:
        names: dict[str, list[str]] = {}
        for engine in self.engines:
            if why := getattr(engine, of):
                names.setdefault(why, []).append(engine.name)
        return [f"{', '.join(those)}: {why}" for why, those in names.items()]

    @property
    def first(self) -> EngineResult:
        """The reference."""
        return next(engine for engine in self.engines if engine.name == self.reference)

    def speed(self, engine: EngineResult) -> float | None:
        """How many times as fast as the reference an engine takes a step, at the largest batch size."""
        own, other = engine.step_time(self.batches[-1]), self.first.step_time(self.batches[-1])
        return other.median / own.median if own and other else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the contents of report.json; a number that JSON does not have (NaN, infinity) is null."""
        entries = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name not in ("pictures", "mode_pictures", "engines")
        }
        said = {
            "schema_version": SCHEMA_VERSION,
            **{name: _as_dict(value) for name, value in entries.items()},
            "engines": [
                {
                    **asdict(engine),
                    "passed": engine.passed,
                    "quality": engine.quality,
                    "speed": self.speed(engine),
                }
                for engine in self.engines
            ],
        }
        said["failures"] = self.failures
        said["not_exact"] = self.not_exact
        said["not_timed"] = self.not_timed
        plain: dict[str, Any] = json_values(said)
        return plain


def _beyond(verdict: MetricVerdict) -> float:
    return math.inf if math.isnan(verdict.ratio) else verdict.ratio / verdict.limit


def _as_dict(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_dict(entry) for entry in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
