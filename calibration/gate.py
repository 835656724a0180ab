"""The gate: an engine passes when its samples are as close to FP32 samples as FP32 samples are to each other.

Three questions, all of which must be answered with yes:

1. *Samples.* For every metric in force, is the distance of the candidate's samples from FP32's at most `gate` times the
   distance between FP32 samples of two seeds, the seed noise floor (`noise_floor`, `gate_metrics`)?
2. *Rare modes.* Has no mode surely lost more than half of its mass? Ratios weigh modes by mass, so this is asked apart.
3. *Score.* Are gain and bias of the gradient along the trajectory at most `bias_limit`, and at each condition twice that
   (`score_bias`)? Cold chains end almost where they should even with a bent gradient, and samples are pooled over
   conditions, so this is asked apart too.

How often an engine without fault fails: a metric that looks along one direction is over the gate with probability 0.0016
(`chain_plan.plan_chains`), one that looks along many more rarely, and the exact test of question 2 takes 0.001. With seven
ratios that is at most 0.012 together, without a correction that would make the gate wider for those who ask more. What
remains is caught by `decided`: a ratio over the gate whose 95 % interval reaches below it is an open case. The
caller draws more chains, joins them to both pools (`SampleSet.join`) and judges again; n stays, so the gate means
the same, while intervals shrink. After as many rounds as the caller allows, the point estimate stands.

What the gate can see: a shift of the energy by `smallest_difference` standard deviations half of the time and by
`ChainPlan.sure_difference` 95 times in 100. Smaller pools see less, and the result says what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..runtime.errors import UsageError
from .chain_plan import ChainPlan, fitted_plan, plan_chains
from .gate_metrics import GATE_METRICS, Pools
from .metrics.score_fidelity import StageFidelity
from .sample_set import SampleSet
from .score_bias import judge_score
from .verdict import GateResult, MetricVerdict

__all__ = ["ChainPlan", "GateResult", "MetricVerdict", "diverged_chains", "judge", "plan_chains"]

_FAR = 1e6
"""A candidate's number this many times as large as FP32's largest has diverged: float32 kernels could not hold it."""


def judge(
    reference: SampleSet,
    candidate: SampleSet,
    fidelity: Sequence[StageFidelity],
    *,
    gate: float = 1.25,
    smallest_difference: float = 0.1,
    bias_limit: float = 0.01,
    temperature: float = 1.0,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> GateResult:
    """Judges a candidate by its samples and its score.

    Args:
        reference: samples of the FP32 engine, as many as `plan_chains` says; any number from 100 on is judged.
        candidate: samples of the candidate drawn with another seed, scored by the FP32 model.
        fidelity: the candidate's score beside FP32's, by stage; empty leaves question 3 out.
        gate: largest ratio to the seed noise floor that passes, above 1.
        smallest_difference: what should be seen, in standard deviations of the energy.
        bias_limit: largest gain and bias that pass, relative to rms of the gradient.
        temperature: T of p(x) proportional to exp(-E(x) / T), for the Stein discrepancy; 0 for chains that come to rest. Their ends
            are points, and one within a hundredth of the samples' spread of another counts as the same. There is no Stein discrepancy then.
        metrics: names from `gate_metrics.GATE_METRICS`; None takes all ("stein" where both sets have gradients).
        seed: of splits, directions, shuffles and clusters: same seed, same result.

    Returns:
        The verdicts. A candidate with numbers that are not finite fails with the one verdict "finite".

    Raises:
        UsageError: an argument is out of range, shapes differ, or the reference is not finite.
    """
    if reference.x.shape[1:] != candidate.x.shape[1:]:
        raise UsageError(
            f"candidate: expected samples of {list(reference.x.shape[1:])} as the reference has, "
            f"got {list(candidate.x.shape[1:])}"
        )
    if not temperature >= 0.0:
        raise UsageError(f"temperature: expected a number of at least 0, got {temperature!r}")
    chains = min(len(reference), len(candidate))
    asked = plan_chains(gate, smallest_difference)  # checks both
    plan = fitted_plan(gate, smallest_difference, chains) if chains != asked.pool else asked
    names = _in_force(reference, candidate, metrics, temperature)
    score = judge_score(fidelity, bias_limit)

    _refuse_infinite(reference)
    diverged = diverged_chains(reference, candidate)
    if diverged:
        share = diverged / len(candidate)
        note = f"{diverged} of {len(candidate)} chains"
        lost = MetricVerdict("finite", share, 0.0, math.inf, math.inf, math.inf, gate, None, False, True, note)
        samples = [lost]
    else:
        pools = Pools(reference, candidate, plan, temperature, seed)
        samples = [GATE_METRICS[name](pools) for name in names]
    verdicts = [*samples, *score]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    return GateResult(
        passed=not failed,
        decided=_decided(samples, score),
        verdicts=tuple(verdicts),
        fidelity=tuple(fidelity),
        chains=chains,
        subset=plan.subset,
        smallest_difference=plan.smallest_difference,
        gate=gate,
        reason=_reason(verdicts, _decided(samples, score)),
    )


def _decided(samples: Sequence[MetricVerdict], score: Sequence[MetricVerdict]) -> bool:
    """Whether more chains could not change the verdict: a failure is sure, or every verdict on samples is.

    More chains say nothing new of the score, which is measured along a trajectory: there the point estimate stands.
    """
    sure = any(not verdict.passed and verdict.decided for verdict in samples)
    return sure or any(not verdict.passed for verdict in score) or all(verdict.decided for verdict in samples)


def _in_force(
    reference: SampleSet, candidate: SampleSet, metrics: Sequence[str] | None, temperature: float
) -> list[str]:
    # At rest gradients vanish, and are those of no density.
    gradients = reference.grad is not None and candidate.grad is not None and temperature > 0
    if metrics is None:
        return [name for name in GATE_METRICS if gradients or name != "stein"]
    for name in metrics:
        if name not in GATE_METRICS:
            raise UsageError(f"metrics: expected some of {', '.join(GATE_METRICS)}, got {name!r}")
        if name == "stein" and not gradients:
            raise UsageError("metrics: 'stein' needs gradients and a temperature, and one of the sample sets has none")
    return list(metrics)


def _refuse_infinite(reference: SampleSet) -> None:
    for name in ("x", "energy", "grad", "features"):
        array = getattr(reference, name)
        if array is not None and not np.isfinite(array).all():
            raise UsageError(f"reference: {name} holds NaN or infinity; FP32's own chains must be mended first")


def diverged_chains(reference: SampleSet, candidate: SampleSet) -> int:
    """Counts the candidate's chains that are not finite, or farther out than any distance could say: one is enough to compare none."""
    lost = ~np.isfinite(candidate.energy)
    for name in ("x", "grad", "features"):
        own, other = getattr(reference, name), getattr(candidate, name)
        if own is None or other is None:
            continue
        reach = np.float64(max(own.max(), -own.min())) * _FAR + _FAR
        rows = other.reshape(len(other), -1)
        lost |= ~((rows.max(axis=1) <= reach) & (rows.min(axis=1) >= -reach))  # true for NaN
    return int(lost.sum())


def _reason(verdicts: Sequence[MetricVerdict], decided: bool) -> str:
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        compared = [verdict for verdict in verdicts if verdict.compared]
        nearest = max(compared or verdicts, key=lambda verdict: verdict.ratio / verdict.limit)
        return f"all {len(verdicts)} verdicts pass; nearest to its limit: {_said(nearest)}"
    listed = "; ".join(_said(verdict) for verdict in failed)
    return listed if decided else f"{listed}; more chains could settle it"


def _said(verdict: MetricVerdict) -> str:
    if verdict.metric == "finite":
        return f"not finite or far out: {verdict.note}"
    if verdict.metric == "rare modes":
        lost = f"one has lost {verdict.value:.0%} of its mass"
        if verdict.passed:
            lost = f"none has surely lost more than {verdict.value:.0%} of its mass, p {verdict.p_value:.2g}"
        return f"rare modes: {lost} ({verdict.note}), {verdict.limit:.0%} passes"
    if verdict.metric.startswith("score"):
        return f"{verdict.metric} {verdict.value:.4f}, {verdict.floor:g} passes"
    if math.isinf(verdict.ratio):
        return f"{verdict.metric} {verdict.value:.4g}, where FP32's distance from itself is 0; 0 passes"
    return (
        f"{verdict.metric} {verdict.ratio:.2f} times the seed noise floor "
        f"({verdict.low:.2f} to {verdict.high:.2f}), {verdict.limit:g} passes"
    )
