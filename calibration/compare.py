"""Puts engines side by side: how well they draw, how fast, and at what cost."""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.backends import open_engine
from ..runtime.bundle import Bundle
from ..runtime.device import describe_device, toolchain
from ..runtime.ebm import Ebm
from ..runtime.errors import DivergenceError, UsageError
from ..runtime.precision_schedule import is_schedule
from .candidate import Candidate, bundle_candidates, external_candidate, precision_at, precisions_in, reference_of
from .chain_plan import ChainPlan, fitted_plan, plan_chains
from .compare_options import CompareOptions
from .comparison import Comparison, EngineResult, ModelSummary
from .conditions import conditions_for
from .draw import SampleStore
from .energy_use import EnergyUse, idle_watts, measure_energy
from .gate import GateResult
from .gate_rules import GateRules
from .histogram import histograms
from .latency import Latency, time_steps
from .layer_precisions import read_layers
from .metrics.auroc import ood_auroc
from .metrics.features import OnnxFeatures, score_graph_features
from .metrics.score_fidelity import StageFidelity
from .mode_shares import mode_shares
from .model_identity import holds_model
from .pareto import pareto_front
from .power import find_sensors
from .rounds import Rounds
from .sample_set import SampleSet, score_samples
from .score_check import ScoreCheck
from .temperature import final_temperature

__all__ = ["compare"]

Tell = Callable[[str, int, int], None]

_SHOWN_IMAGES, _SHOWN_POINTS = 32, 400


def compare(options: CompareOptions, progress: Tell | None = None) -> Comparison:
    """Compares engines with the FP32 engine of the first bundle.

    Args:
        options: what to compare.
        progress: called with (what is being done, done, in all).

    Returns:
        What was found. An engine whose chains diverge is in it with the reason.

    Raises:
        UsageError: an option cannot be right, or the bundles do not fit each other.
        LoadError: a file cannot be read, or there is no FP32 engine.
        MissingBackend: a package is not installed.
        DivergenceError: the chains of FP32 itself diverge.
    """
    begun = time.perf_counter()
    tell = progress or (lambda what, done, total: None)
    bundles = [Bundle(path) for path in options.bundles]
    engines, not_run = _engines(bundles, options)
    reference = engines[0]
    plan, rules = _plan(options), _rules(options)
    outliers = _outliers(options, bundles[0])
    with ExitStack() as stack:
        fp32 = stack.enter_context(reference.open(options.threads))
        sampling = _Sampling(options, rules, reference, fp32, plan, tell)
        same = [True, *(_same_model(reference, bundle, options.threads) for bundle in bundles[1:])]
        score = _score_check(options, rules, reference, bundles[0], tell)
        base = sampling.reference()
        shown = base.x[: min(len(base), _shown(bundles[0]))]
        results: list[EngineResult] = []
        sets: dict[str, SampleSet] = {}
        pictures = {reference.name: shown}
        for candidate in engines:
            ebm = fp32 if candidate is reference else candidate.open(options.threads)
            with ExitStack() if candidate is reference else ebm:
                alike = same[bundles.index(candidate.bundle)]
                known = alike and candidate is not reference
                fidelity = _fidelity(score, candidate, options.threads, tell) if known else ()
                result = dataclasses.replace(_result(candidate), fidelity=fidelity)
                try:
                    gate, sets[candidate.name] = sampling.judged(candidate, ebm, fidelity)
                    if candidate is not reference:
                        pictures[candidate.name] = sampling.same_noise(candidate, ebm, len(shown))
                except DivergenceError as error:
                    sets.pop(candidate.name, None)
                    results.append(dataclasses.replace(result, failure=f"Its chains diverge: {error}"))
                    continue
                results.append(dataclasses.replace(
                    result,
                    gate=gate,
                    auroc=_auroc(candidate, ebm, outliers, options.cond),
                    same_noise_distance=_apart(shown, pictures.get(candidate.name)),
                ))  # fmt: skip
    ran = [engine for engine, result in zip(engines, results, strict=True) if not result.failure]
    times, use, power = _speed(ran, options, tell)
    results = [
        dataclasses.replace(result, latency=times.get(result.name, ()), energy=use.get(result.name))
        for result in results
    ]
    tell("counting modes", 0, 0)
    modes = mode_shares(base, sets, seed=options.seed)
    batches = tuple(sorted(set(options.batches)))
    others = {name: samples.energy for name, samples in sets.items() if name != reference.name}
    return Comparison(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - begun,
        models=tuple(_summary(bundle, alike) for bundle, alike in zip(bundles, same, strict=True)),
        reference=reference.name,
        engines=_with_front(results, batches[-1]),
        not_run=tuple(not_run),
        plan=plan,
        seeds={
            "reference": rules.sample_seed(0, candidate=False),
            "candidates": rules.sample_seed(0, candidate=True),
            "trajectory": rules.trajectory_seed,
        },
        batches=batches,
        energies=histograms({reference.name: base.energy, **others}),
        modes=None if modes is None else modes[0],
        features=_features_said(options.features),
        layers=tuple(layers for bundle in bundles for layers in read_layers(bundle)),
        power=power,
        device=describe_device(),
        toolchain=toolchain(),
        pictures=pictures,
        mode_pictures=None if modes is None else modes[1],
    )


class _Sampling:
    """Draws and judges sample sets; FP32's own are drawn once for all candidates."""

    def __init__(
        self, options: CompareOptions, rules: GateRules, reference: Candidate, fp32: Ebm, plan: ChainPlan, tell: Tell
    ) -> None:
        self._options = options
        self._reference = reference
        self._fp32 = fp32
        self._plan = plan
        self._tell = tell
        self._store = SampleStore(options.cache)
        self._features = _features(options, reference)
        self._rounds = Rounds(
            _rules(options), lambda seed: self._scored(reference, fp32, seed, "samples of FP32"), tell
        )

    def reference(self) -> SampleSet:
        """FP32's samples of the first round."""
        return self._rounds.reference()

    def judged(self, candidate: Candidate, ebm: Ebm, fidelity: Sequence[StageFidelity]) -> tuple[GateResult, SampleSet]:
        """Judges a candidate, with more chains where that could change the verdict; FP32 can be one too."""
        return self._rounds.judge(
            candidate.name,
            lambda seed: self._scored(candidate, ebm, seed, f"samples of {candidate.name}"),
            fidelity,
            final_temperature(self._reference.bundle.sampler),  # what the Stein discrepancy holds samples against
        )

    def same_noise(self, candidate: Candidate, ebm: Ebm, count: int) -> np.ndarray:
        """The first samples under FP32's own seed, [count, *S]."""
        cond = conditions_for(self._reference.bundle, count, self._options.cond)
        told = partial(self._tell, f"samples of {candidate.name} under the same noise")
        return self._store.draw(candidate, lambda: ebm, count, seed=self._options.seed, cond=cond, progress=told)

    def _scored(self, candidate: Candidate, ebm: Ebm, seed: int, what: str) -> SampleSet:
        count = self._plan.pool
        cond = conditions_for(self._reference.bundle, count, self._options.cond)
        x = self._store.draw(candidate, lambda: ebm, count, seed=seed, cond=cond, progress=partial(self._tell, what))
        self._tell(f"scoring {what}", 0, 0)
        return score_samples(self._fp32, x, cond=cond, features=self._features)


def _score_check(
    options: CompareOptions, rules: GateRules, reference: Candidate, bundle: Bundle, tell: Tell
) -> ScoreCheck:
    with reference.engine(options.threads) as engine:
        return ScoreCheck(
            engine,
            bundle.model,
            bundle.sampler,
            seed=rules.trajectory_seed,
            conditions=lambda count: conditions_for(bundle, count, options.cond),
            data=bundle.data(),
            progress=partial(tell, "a trajectory of FP32"),
        )


def _fidelity(score: ScoreCheck, candidate: Candidate, threads: int | None, tell: Tell) -> tuple[StageFidelity, ...]:
    """The candidate's gradients beside FP32's, stage by stage; a schedule's by the engine of each stage."""
    with ExitStack() as stack:
        engines = {
            precision: stack.enter_context(candidate.engine(threads, precision))
            for precision in precisions_in(candidate.precision)
        }
        return score.fidelity(
            lambda step: engines[precision_at(candidate.precision, step)],
            progress=partial(tell, f"gradients of {candidate.name}"),
        )


def _features(options: CompareOptions, reference: Candidate) -> Callable[[np.ndarray], np.ndarray] | None:
    """What samples are compared by; None for x itself. Asked once at zero, so that an error comes before the sampling."""
    if options.features == "pixels":
        return None
    shape = reference.bundle.model.x.shape
    if options.features == "model":
        artifact = next(
            (
                entry
                for entry in reference.bundle.artifacts
                if entry.role == "score" and entry.precision == "fp32" and entry.path.endswith(".onnx")
            ),
            None,
        )
        if artifact is None:
            raise UsageError(
                f"--features model: {reference.bundle.path} holds no fp32 ONNX graph; export it with --target onnx too"
            )
        rows = conditions_for(reference.bundle, 1, options.cond)
        if (prologue := reference.bundle.prologue_of(artifact)) is not None:
            with open_engine("onnxruntime", reference.bundle.file_of(prologue), precision="fp32") as engine:
                made = {name: array.copy() for name, array in engine.run(rows).items()}
            rows = {name: array for name, array in rows.items() if name not in prologue.reads} | made
        network = score_graph_features(reference.bundle.file_of(artifact), cond=rows, threads=options.threads)
    else:
        network = OnnxFeatures(options.features, threads=options.threads)
    network(np.zeros((2, *shape), np.float32))
    return network


def _engines(bundles: Sequence[Bundle], options: CompareOptions) -> tuple[list[Candidate], list[Any]]:
    """The reference first, then the candidates; and what cannot run."""
    first = bundles[0].model
    for bundle in bundles[1:]:
        if (bundle.model.x.shape, bundle.model.cond) != (first.x.shape, first.cond):
            raise UsageError(
                f"{bundle.path} takes {_inputs(bundle)} and {bundles[0].path} takes {_inputs(bundles[0])}: only models "
                "with the same inputs can be compared"
            )
    paths = [bundle.path.resolve() for bundle in bundles]
    if len(set(paths)) < len(paths) or len({path.stem for path in paths}) < len(paths):
        raise UsageError("the bundles need different names, since the report calls them by name")
    reference = reference_of(bundles[0], named=len(bundles) > 1)
    found, not_run = bundle_candidates(bundles, backends=options.backends, precisions=options.precisions)
    engines = [reference, *(entry for entry in found if entry.name != reference.name)]
    engines += [external_candidate(text, bundles[0]) for text in options.candidates]
    names = [engine.name for engine in engines]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--candidate {name}: there is an engine of this name already; give it another")
    if len(engines) == 1:
        raise UsageError(
            f"there is nothing to compare with {reference.name}: give a bundle with another precision or backend, "
            "a second bundle, or --candidate NAME=FILE.onnx"
        )
    return engines, not_run


def _rules(options: CompareOptions) -> GateRules:
    return GateRules(
        gate=options.gate,
        smallest_difference=options.smallest_difference,
        extra_rounds=options.extra_rounds,
        seed=options.seed,
    )


def _plan(options: CompareOptions) -> ChainPlan:
    plan = plan_chains(options.gate, options.smallest_difference)
    return plan if options.chains is None else fitted_plan(options.gate, options.smallest_difference, options.chains)


def _same_model(reference: Candidate, bundle: Bundle, threads: int | None) -> bool:
    with reference.engine(threads) as engine:
        return holds_model(engine, reference.bundle.model, bundle)


def _outliers(options: CompareOptions, bundle: Bundle) -> tuple[np.ndarray, np.ndarray] | None:
    if (options.data is None) != (options.ood is None):
        raise UsageError("--data and --ood are needed together: the AUROC tells one set from the other")
    if options.data is None or options.ood is None:
        return None
    for name, array in (("--data", options.data), ("--ood", options.ood)):
        if array.shape[1:] != bundle.model.x.shape or not len(array):
            wanted = ", ".join(["M", *map(str, bundle.model.x.shape)])
            raise UsageError(f"{name}: expected shape [{wanted}], got {list(array.shape)}")
    return options.data, options.ood


def _auroc(
    candidate: Candidate,
    ebm: Ebm,
    outliers: tuple[np.ndarray, np.ndarray] | None,
    cond: Mapping[str, np.ndarray],
) -> float | None:
    if outliers is None:
        return None
    inside, outside = (ebm.score(array, **conditions_for(candidate.bundle, len(array), cond))[0] for array in outliers)
    if not np.isfinite(inside).all() or not np.isfinite(outside).all():
        return None
    return ood_auroc(inside, outside)


def _speed(
    engines: Sequence[Candidate], options: CompareOptions, tell: Tell
) -> tuple[dict[str, tuple[Latency, ...]], dict[str, EnergyUse], str]:
    """Times all engines in turns, then reads the power sensors; returns both by name, and a sentence on the sensors."""
    sensors, said = find_sensors(options.sysfs)
    by_name = {engine.name: engine for engine in engines}
    schedules = frozenset(name for name, engine in by_name.items() if is_schedule(engine.precision))

    def cond(name: str, count: int) -> dict[str, np.ndarray]:
        return conditions_for(by_name[name].bundle, count, options.cond)

    times: dict[str, list[Latency]] = {name: [] for name in by_name}
    use: dict[str, EnergyUse] = {}
    with ExitStack() as stack:
        ebms = {name: stack.enter_context(engine.open(options.threads)) for name, engine in by_name.items()}
        batches = sorted(set(options.batches))
        for batch in batches:
            told = partial(tell, f"timing batches of {batch}")
            found = time_steps(ebms, cond, batch=batch, rounds=options.rounds, whole_chains=schedules, progress=told)
            for name, latency in found.items():
                times[name].append(latency)
        if sensors:
            idle = idle_watts(sensors)
            for index, (name, ebm) in enumerate(ebms.items()):
                tell("reading power sensors", index, len(ebms))
                use[name] = measure_energy(ebm, sensors, cond(name, batches[-1]), batch=batches[-1], idle=idle)
    return {name: tuple(own) for name, own in times.items()}, use, said


def _with_front(results: Sequence[EngineResult], batch: int) -> tuple[EngineResult, ...]:
    """Marks the Pareto front of time and quality; the reference is the first of the results."""
    # FP32 itself, judged with another seed, is so far off by chance: to be nearer than that is chance too.
    chance = max(results[0].quality or 1.0, 1.0)
    costs: list[tuple[float, ...] | None] = []
    for result in results:
        step, off = result.step_time(batch), result.quality
        costs.append(None if step is None or off is None else (step.median, max(off, chance)))
    return tuple(
        dataclasses.replace(result, front=front) for result, front in zip(results, pareto_front(costs), strict=True)
    )


def _result(candidate: Candidate) -> EngineResult:
    return EngineResult(
        name=candidate.name,
        model=candidate.bundle.path.stem,
        backend=candidate.backend,
        precision=candidate.precision,
        external=candidate.external,
        bytes=candidate.bytes,
        note=candidate.note,
    )


def _summary(bundle: Bundle, same: bool) -> ModelSummary:
    return ModelSummary(
        name=bundle.path.stem,
        path=str(bundle.path),
        model=bundle.model.name,
        shape=bundle.model.x.shape,
        cond={spec.name: spec.shape for spec in bundle.model.cond},
        sampler=bundle.sampler.to_dict(),
        created_with=dict(bundle.manifest.created_with),
        same_as_first=same,
    )


def _shown(bundle: Bundle) -> int:
    """How many samples are shown: points are small, images are not."""
    return _SHOWN_POINTS if math.prod(bundle.model.x.shape) <= 2 else _SHOWN_IMAGES


def _apart(reference: np.ndarray, own: np.ndarray | None) -> float | None:
    """rms of the difference over the rms spread of the reference's samples; 0 is best."""
    if own is None or own is reference:
        return None
    size = float(np.square(reference - reference.mean(axis=0), dtype=np.float64).mean())
    off = float(np.square(own.astype(np.float64) - reference).mean())
    return math.sqrt(off / size) if size > 0 else None


def _features_said(features: str) -> str:
    named = {"pixels": "x itself", "model": "the score graph's own features"}
    return named.get(features, f"the features of {Path(features).name}")


def _inputs(bundle: Bundle) -> str:
    return ", ".join(f"{spec.name} {list(spec.shape)}" for spec in (bundle.model.x, *bundle.model.cond))
