"""Puts engines side by side: how well they draw, how fast, and at what cost."""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import numpy as np

from ..runtime.bundle import Bundle
from ..runtime.device import describe_device, toolchain
from ..runtime.ebm import Ebm
from ..runtime.errors import DivergenceError, EbmExportError, UsageError
from ..runtime.int8_said import int8_said
from ..runtime.precision_schedule import is_schedule
from .candidate import Candidate, precision_at, precisions_in
from .chain_mixing import chain_mixing
from .chain_plan import ChainPlan, fitted_plan, plan_chains
from .compare_options import CompareOptions, Tell
from .comparison import Comparison, EngineResult, ModelSummary
from .conditions import conditions_for
from .exact_acceptance import exact_acceptance
from .executed_layers import executed_layers
from .gate_rules import GateRules
from .histogram import histograms
from .layer_precisions import Layers, read_layers
from .likelihood import check_likelihood, likelihood_bounds
from .line_up import line_up
from .metrics.auroc import ood_auroc
from .metrics.score_fidelity import StageFidelity
from .mode_shares import mode_shares
from .model_identity import holds_model
from .sample_figures import sample_figures
from .sample_set import SampleSet
from .sampling import Sampling
from .score_check import ScoreCheck
from .speed import measure_speed, with_front
from .temperature import final_temperature

__all__ = ["compare"]

_SHOWN_IMAGES, _SHOWN_POINTS = 32, 400


def compare(options: CompareOptions, progress: Tell | None = None) -> Comparison:
    """Compares engines with the FP32 engine of the first bundle.

    Args:
        options: what to compare.
        progress: called with (what is being done, done, in all).

    Returns:
        What was found. An engine that cannot be run, or whose chains diverge, is in it with the reason.

    Raises:
        UsageError: an option cannot be right, or the bundles do not fit each other.
        LoadError: a file cannot be read, or there is no FP32 engine.
        MissingBackend: a package is not installed.
        DivergenceError: the chains of FP32 itself diverge.
    """
    begun = time.perf_counter()
    tell = progress or (lambda what, done, total: None)
    bundles = [Bundle(path) for path in options.bundles]
    engines, not_run = line_up(bundles, options)
    reference = engines[0]
    plan, rules = _plan(options), options.rules()
    outliers = _outliers(options, bundles[0])
    if options.likelihood is not None:
        cond = conditions_for(bundles[0], plan.pool, options.cond)
        check_likelihood(options.likelihood, bundles[0].sampler, cond, options.data)
    with ExitStack() as stack:
        fp32 = stack.enter_context(reference.open(options.threads))
        sampling = Sampling(options, rules, reference, fp32, plan, tell)
        same = [True, *(_same_model(reference, bundle, options.threads) for bundle in bundles[1:])]
        score = _score_check(options, rules, reference, bundles[0], fp32.fitting, tell)
        base = sampling.reference()
        shown = base.x[: min(len(base), _shown(bundles[0]))]
        results: list[EngineResult] = []
        executed: list[Layers] = []
        sets: dict[str, SampleSet] = {}
        pictures = {reference.name: shown}
        for candidate in engines:
            result = _result(candidate)
            try:
                with ExitStack() as own:
                    ebm = fp32
                    if candidate is not reference:
                        ebm = own.enter_context(candidate.open(options.threads))
                    if candidate is not reference and same[bundles.index(candidate.bundle)]:
                        fidelity, seen = _fidelity(score, candidate, options.threads, ebm.fitting, tell)
                        result = dataclasses.replace(result, fidelity=fidelity)
                        if seen is not None:
                            executed.append(seen)
                            said = int8_said("OpenVINO", seen.counts.get("int8", 0), len(seen.nodes))
                            result = dataclasses.replace(result, note=f"{result.note}; {said}")
                    gate, sets[candidate.name] = sampling.judged(candidate, ebm, result.fidelity)
                    if candidate is not reference:
                        pictures[candidate.name] = sampling.same_noise(candidate, ebm, len(shown))
                    if candidate is not reference and options.exact:
                        if same[bundles.index(candidate.bundle)]:
                            cond = conditions_for(bundles[0], len(base), options.cond)
                            result = _with_exact(result, ebm, fp32, base, cond, rules.trajectory_seed(), tell)
                        else:
                            result = dataclasses.replace(result, not_exact="it holds another model")
                    tell(f"figures of {candidate.name}", 0, 0)
                    results.append(dataclasses.replace(
                        result,
                        gate=gate,
                        figures=sample_figures(
                            base,
                            sets[candidate.name],
                            plan,
                            final_temperature(bundles[0].sampler),
                            network=options.network is not None,
                            seed=options.seed,
                        ),
                        mixing=chain_mixing(
                            ebm,
                            fp32,
                            conditions_for(bundles[0], 1, options.cond),
                            seed=rules.trajectory_seed(),
                            progress=partial(tell, f"how chains of {candidate.name} mix"),
                        ),
                        auroc=_auroc(candidate, ebm, outliers, options.cond),
                        same_noise_distance=_apart(shown, pictures.get(candidate.name)),
                    ))  # fmt: skip
            except EbmExportError as error:
                if candidate is reference or isinstance(error, UsageError):
                    raise
                why = "Its chains diverge" if isinstance(error, DivergenceError) else "It could not be run"
                results.append(dataclasses.replace(result, failure=f"{why}: {error}"))
                sets.pop(candidate.name, None)
                pictures.pop(candidate.name, None)
        likelihood = None if options.likelihood is None else likelihood_bounds(
            fp32,
            base,
            sets,
            temperatures=options.likelihood,
            cond=conditions_for(bundles[0], 1, options.cond),
            data=options.data,
            seed=options.seed,
            progress=partial(tell, "bounds of the log-likelihood"),
        )  # fmt: skip
    ran = [engine for engine, result in zip(engines, results, strict=True) if not result.failure]
    speed = measure_speed(ran, options, tell)
    results = [
        dataclasses.replace(
            result,
            latency=speed.times.get(result.name, ()),
            energy=speed.energy.get(result.name),
            not_timed=speed.not_timed.get(result.name, ""),
        )
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
        engines=with_front(results, batches[-1]),
        not_run=tuple(not_run),
        plan=plan,
        seeds={
            "reference": rules.sample_seed(0, candidate=False),
            "candidates": rules.sample_seed(0, candidate=True),
            "trajectory": rules.trajectory_seed(),
        },
        batches=batches,
        energies=histograms({reference.name: base.energy, **others}),
        modes=None if modes is None else modes[0],
        features=sampling.networks.said,
        layers=(*(layers for bundle in bundles for layers in read_layers(bundle)), *executed),
        power=speed.power,
        device=describe_device(),
        toolchain=toolchain(),
        likelihood=likelihood,
        pictures=pictures,
        mode_pictures=None if modes is None else modes[1],
    )


def _score_check(
    options: CompareOptions, rules: GateRules, reference: Candidate, bundle: Bundle, max_batch: int, tell: Tell
) -> ScoreCheck:
    return ScoreCheck(
        lambda: reference.engine(options.threads),
        bundle.model,
        bundle.sampler,
        rules,
        conditions=lambda count: conditions_for(bundle, count, options.cond),
        data=bundle.data(),
        max_batch=max_batch,
        progress=partial(tell, "a trajectory of FP32"),
    )


def _fidelity(
    score: ScoreCheck, candidate: Candidate, threads: int | None, max_batch: int, tell: Tell
) -> tuple[tuple[StageFidelity, ...], Layers | None]:
    """The candidate's gradients beside FP32's, stage by stage; a schedule's by the engine of each stage.

    A graph made elsewhere comes without a word about its layers: its engine is asked, which has run by then.
    """
    with ExitStack() as stack:
        engines = {
            precision: stack.enter_context(candidate.engine(threads, precision))
            for precision in precisions_in(candidate.precision)
        }
        fidelity = score.fidelity(
            lambda step: engines[precision_at(candidate.precision, step)],
            progress=partial(tell, f"gradients of {candidate.name}"),
            max_batch=max_batch,
        )
        if not candidate.external:
            return fidelity, None
        said = f"{candidate.name}, {candidate.file.name}"
        return fidelity, executed_layers(engines[candidate.precision], candidate.bundle.path.stem, said)


def _with_exact(
    result: EngineResult, ebm: Ebm, fp32: Ebm, base: SampleSet, cond: Mapping[str, np.ndarray], seed: int, tell: Tell
) -> EngineResult:
    """The result with the acceptance of exact sampling, or with the reason why there is none."""
    if is_schedule(result.precision):
        return dataclasses.replace(result, not_exact="exact sampling corrects one precision, not several by steps")
    told = partial(tell, f"exact sampling from {result.name}")
    try:
        return dataclasses.replace(result, exact=exact_acceptance(ebm, fp32, base.x, cond, seed=seed, progress=told))
    except EbmExportError as error:  # it judges nothing, so that what was judged must not be lost with it
        return dataclasses.replace(result, not_exact=str(error))


def _plan(options: CompareOptions) -> ChainPlan:
    plan = plan_chains(options.gate, options.smallest_difference)
    return plan if options.chains is None else fitted_plan(options.gate, options.smallest_difference, options.chains)


def _same_model(reference: Candidate, bundle: Bundle, threads: int | None) -> bool:
    with reference.engine(threads) as engine:
        return holds_model(engine, reference.bundle.model, bundle)


def _outliers(options: CompareOptions, bundle: Bundle) -> tuple[np.ndarray, np.ndarray] | None:
    if options.ood is None and options.data is not None and options.likelihood is None:
        raise UsageError(
            "--data and --ood are needed together: the AUROC tells one set from the other; --data alone is for --likelihood"
        )
    if options.data is None and options.ood is not None:
        raise UsageError("--data and --ood are needed together: the AUROC tells one set from the other")
    for name, array in (("--data", options.data), ("--ood", options.ood)):
        if array is not None and (array.shape[1:] != bundle.model.x.shape or not len(array)):
            wanted = ", ".join(["M", *map(str, bundle.model.x.shape)])
            raise UsageError(f"{name}: expected shape [{wanted}], got {list(array.shape)}")
    return None if options.data is None or options.ood is None else (options.data, options.ood)


def _auroc(
    candidate: Candidate,
    ebm: Ebm,
    outliers: tuple[np.ndarray, np.ndarray] | None,
    cond: Mapping[str, np.ndarray],
) -> float | None:
    if outliers is None:
        return None
    inside, outside = (
        ebm.score(array, cond=conditions_for(candidate.bundle, len(array), cond))[0] for array in outliers
    )
    if not np.isfinite(inside).all() or not np.isfinite(outside).all():
        return None
    return ood_auroc(inside, outside)


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
