"""Puts engines side by side: how well they draw, how fast, and at what cost."""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..runtime.bundle import GOLDEN, Bundle
from ..runtime.ebm import Ebm
from ..runtime.errors import DivergenceError, UsageError
from .candidate import Candidate, bundle_candidates, external_candidate, reference_of
from .chain_plan import ChainPlan, fitted_plan, plan_chains
from .comparison import Comparison, EnergyUse, EngineResult, ModelSummary, ModeShares
from .conditions import conditions_for
from .device import describe_device, toolchain
from .draw import SampleStore
from .gate import GateResult, judge
from .histogram import histograms
from .latency import Latency, time_steps
from .layers import read_layers
from .metrics.auroc import ood_auroc
from .metrics.features import load_features
from .metrics.modes import find_modes, mode_masses
from .pareto import pareto_front
from .power import PowerMeter, Sensor, find_sensors
from .sample_set import SampleSet, score_samples
from .score_along import fidelity_along, gradients_along
from .trajectory import Trajectory, record_trajectory

__all__ = ["CompareOptions", "compare"]

Tell = Callable[[str, int, int], None]

_TRAJECTORY_CHAINS = 256
"""Chains whose states the gradients are compared at; a bias that is 1/16 of the noise then shows."""
_TRAJECTORY_BYTES = 256 * 2**20
_SAME_MODEL = 0.02
"""Largest relative error between one bundle's FP32 gradients and PyTorch's for another, for both to be one model."""
_POWER_SECONDS = 2.0


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, and how.

    Attributes:
        bundles: folders that ebm-export wrote; the first one's FP32 engine is the reference.
        backends: only these; all if empty.
        precisions: only these; all if empty.
        candidates: score graphs made elsewhere, NAME=FILE or NAME=BACKEND:FILE.
        gate: largest ratio to the seed noise floor that passes.
        smallest_difference: shift in standard deviations that should be caught; the number of chains follows.
        chains: number of chains in place of that.
        features: "pixels" for x itself, or an ONNX file from x to features.
        data: [M, *S] data that the model was trained for, for the AUROC.
        ood: [M, *S] other data.
        cond: conditioning inputs by name, in place of those in the bundle.
        seed: of the reference's samples; the candidates' is the next one, the trajectory's the one after.
        threads: threads of one engine call.
        batches: batch sizes to time.
        rounds: rounds of timing.
        cache: folder that keeps the sample sets; None keeps nothing.
        sysfs: where power sensors are looked for.
    """

    bundles: Sequence[str | Path]
    backends: Sequence[str] = ()
    precisions: Sequence[str] = ()
    candidates: Sequence[str] = ()
    gate: float = 1.25
    smallest_difference: float = 0.1
    chains: int | None = None
    features: str = "pixels"
    data: np.ndarray | None = None
    ood: np.ndarray | None = None
    cond: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    threads: int | None = None
    batches: Sequence[int] = (1, 8)
    rounds: int = 9
    cache: Path | None = None
    sysfs: str | Path = "/sys"


def compare(options: CompareOptions, progress: Tell | None = None) -> Comparison:
    """Compares engines with the FP32 engine of the first bundle.

    Args:
        options: what to compare.
        progress: called with (what is being done, done, in all).

    Returns:
        What was found; an engine that breaks off is in it with the reason.

    Raises:
        UsageError: an option cannot be right, or the bundles do not fit each other.
        LoadError: a file cannot be read, or there is no FP32 engine.
        MissingBackend: a package is not installed.
    """
    begun = time.perf_counter()
    work = _Comparing(options, progress or (lambda what, done, total: None))
    return dataclasses.replace(work.run(), seconds=time.perf_counter() - begun)


class _Comparing:
    """One comparison under way: what every part of it needs."""

    def __init__(self, options: CompareOptions, tell: Tell) -> None:
        self.options = options
        self.tell = tell
        self.bundles = [Bundle(path) for path in options.bundles]
        _check_bundles(self.bundles)
        self.reference = reference_of(self.bundles[0])
        found, self.not_run = bundle_candidates(
            self.bundles, backends=options.backends, precisions=options.precisions
        )
        if len(self.bundles) > 1:
            self.reference = dataclasses.replace(
                self.reference, name=f"{self.bundles[0].path.stem}: {self.reference.name}"
            )
        others = [entry for entry in found if entry.name != self.reference.name]
        others += [external_candidate(text, self.bundles[0]) for text in options.candidates]
        self.candidates = [self.reference, *others]
        _check_names(self.candidates)
        self.plan = _plan(options)
        self.cond = conditions_for(self.bundles[0], self.plan.pool, options.cond)
        _check_outliers(options, self.bundles[0])
        self.store = SampleStore(options.cache)
        self.features = load_features(options.features, self.bundles[0].model.x.shape)

    def run(self) -> Comparison:
        seed = self.options.seed
        summaries = [_summary(bundle) for bundle in self.bundles]
        drawn: dict[str, np.ndarray] = {}
        sets: dict[str, SampleSet] = {}
        results: list[EngineResult] = []
        with self.reference.open(self.options.threads) as fp32:
            drawn[self.reference.name] = self.draw(self.reference, fp32, self.plan.pool, seed, "FP32's samples")
            base = self.score(fp32, drawn[self.reference.name])
            shown = _shown(base.x.shape[1:], self.plan.pool)
            trajectory = self.trajectory()
            with self.reference.engine(self.options.threads) as engine:
                exact = gradients_along(engine, trajectory, self.rows(len(trajectory.x[0])))
                same = [_same_model(engine, bundle) for bundle in self.bundles[1:]]
            summaries[1:] = [
                dataclasses.replace(summary, same_as_first=own) for summary, own in zip(summaries[1:], same, strict=True)
            ]
            alike = {summary.name for summary in summaries if summary.same_as_first}
            pictures = {self.reference.name: base.x[:shown]}
            for candidate in self.candidates:
                result = _empty_result(candidate)
                try:
                    own, samples, picture = self.one(candidate, fp32, base, trajectory, exact, shown, alike)
                except DivergenceError as error:
                    results.append(dataclasses.replace(result, failure=f"Its chains diverged: {error}."))
                    continue
                sets[candidate.name] = samples
                if candidate is not self.reference:
                    pictures[candidate.name] = picture
                results.append(dataclasses.replace(result, **own))
        ran = [entry for entry, result in zip(self.candidates, results, strict=True) if not result.failure]
        latency, energy, power = self.speed(ran)
        results = [
            dataclasses.replace(result, latency=latency.get(result.name, ()), energy=energy.get(result.name))
            for result in results
        ]
        modes, mode_pictures = self.modes(base, sets)
        layers = [found for bundle in self.bundles if (found := read_layers(bundle)) is not None]
        return Comparison(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            seconds=0.0,
            models=tuple(summaries),
            reference=self.reference.name,
            engines=tuple(pareto_front(results, self.plan.gate, max(self.options.batches))),
            not_run=tuple(self.not_run),
            plan=self.plan,
            seeds={"reference": seed, "candidates": seed + 1, "trajectory": seed + 2},
            batches=tuple(sorted(set(self.options.batches))),
            energies=histograms({self.reference.name: base.energy} | {
                name: samples.energy for name, samples in sets.items() if name != self.reference.name
            }),
            modes=modes,
            features="x itself" if self.options.features == "pixels" else Path(self.options.features).name,
            layers=tuple(layers),
            power=power,
            device=describe_device(),
            toolchain=toolchain(),
            pictures=pictures,
            mode_pictures=mode_pictures,
        )  # fmt: skip

    def one(
        self,
        candidate: Candidate,
        fp32: Ebm,
        base: SampleSet,
        trajectory: Trajectory,
        exact: np.ndarray,
        shown: int,
        alike: set[str],
    ) -> tuple[dict[str, object], SampleSet, np.ndarray]:
        """Draws from one engine and judges it; the reference is judged as a candidate is, with the other seed."""
        seed, is_reference = self.options.seed, candidate is self.reference
        with _opened(candidate, self.options.threads, fp32 if is_reference else None) as ebm:
            samples = self.score(fp32, self.draw(candidate, ebm, self.plan.pool, seed + 1, f"{candidate.name}: samples"))
            picture, apart = base.x[:shown], None
            if not is_reference:
                picture = self.draw(candidate, ebm, shown, seed, f"{candidate.name}: samples under the same noise")
                apart = _same_noise_distance(base.x[:shown], picture)
            auroc = self.auroc(ebm())
        fidelity = ()
        if not is_reference and candidate.bundle.path.stem in alike:
            fidelity = fidelity_along(trajectory, exact, self.gradients(candidate, trajectory))
        self.tell(f"judging {candidate.name}", 0, 0)
        gate: GateResult = judge(base, samples, plan=self.plan, fidelity=fidelity)
        own = {"gate": gate, "fidelity": fidelity, "same_noise_distance": apart, "auroc": auroc}
        return own, samples, picture
