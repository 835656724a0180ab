"""The report in plain words: verdicts, metrics, and how to read it all."""

from __future__ import annotations

import math

from ..comparison import Comparison, EngineResult
from .scale import format_number

__all__ = ["HOW_TO_READ", "METRICS", "Verdict", "headline", "metric_name", "times_as_fast", "verdict"]

METRICS: dict[str, tuple[str, str]] = {
    "energy": ("energy", "Wasserstein-1 distance of the FP32 energies of the samples: are they as likely as FP32's?"),
    "sliced wasserstein": ("sliced W2", "Wasserstein-2 distance of x along random directions: the whole distribution."),
    "mmd": ("MMD", "Maximum mean discrepancy with a Gaussian kernel: differences anywhere, near and far."),
    "frechet": ("Fréchet", "Distance of mean and covariance of the leading components; with Inception's features, the FID."),
    "density": ("density", "How deep the samples lie among FP32's: too low is poor samples, too high is too tame ones."),
    "coverage": ("coverage", "How much of FP32's variety is met."),
    "modes": ("modes", "Shares of the clusters that the samples fall into."),
    "rare modes": ("rare modes", "The largest loss that any one mode surely suffered; half of its mass is the limit."),
    "stein": ("Stein", "Kernel Stein discrepancy: do the samples follow the FP32 gradient? Needs no other samples."),
    "score gain": ("gradient gain", "How much too long or short the gradient is along the chain; 1 % of it is the limit."),
    "score bias": ("gradient bias", "The gradient's constant error along the chain; 1 % of its size is the limit."),
    "finite": ("finite", "Chains that left the numbers a float can hold, or went far out."),
}
"""For each metric of the gate its name in the report, and what it sees."""

HOW_TO_READ = (
    "Each engine ran the sampler with the bundle's own settings, and FP32 ran it with another seed. A ratio is the "
    "distance of an engine's samples from FP32's, divided by the distance that two sets of FP32 samples have from each "
    "other (the seed noise floor). 1 means that nothing can be told apart; the gate is where it fails.",
    "The bar through a dot is the 95 % confidence interval of the ratio. The p-value is that of a test that both sets "
    "have one distribution: a small one says that they differ, however little.",
    "The side-by-side pictures use the same seed and the same noise for every engine, so that differences come from the "
    "engine alone. Late in a chain a small error can turn one sample into another just as good: pictures that differ are "
    "no fault by themselves. The gate judges distributions.",
    "Gain and bias of the gradient move the distribution that a chain goes to. Noise of the same size does much less "
    "harm: it acts like a little more temperature.",
    "Times are medians over rounds in which the engines took turns, with the 10th and 90th percentile; a step is noise, "
    "engine call and drift together.",
)


class Verdict:
    """How an engine is called at the top of the report.

    Attributes:
        css: class that gives the colour: good, bad or told.
        word: for the badge.
        text: a sentence or two.
    """

    def __init__(self, css: str, word: str, text: str) -> None:
        self.css = css
        self.word = word
        self.text = text


def metric_name(metric: str) -> str:
    """The name of a metric in the report."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def verdict(engine: EngineResult, comparison: Comparison) -> Verdict:
    """Says in plain words what was found about an engine."""
    reference = engine.name == comparison.reference
    if engine.failure:
        return Verdict("bad", "✕ broke off", engine.failure)
    if engine.gate is None:
        return Verdict("told", "not judged", "Its samples were not judged.")
    worst = engine.worst
    told = ""
    if worst is not None:
        low, high = format_number(worst.low, 2), format_number(worst.high, 2)
        told = (
            f"Nearest to the gate is {metric_name(worst.metric)}: {format_number(worst.ratio)} of "
            f"{format_number(worst.limit)} allowed (95 % interval {low} to {high})."
        )
    if reference:
        control = "passes, as it should" if engine.passed else "fails, so read the others with care"
        return Verdict("told", "reference", f"What the others are compared with. Judged with another seed, it {control}. {told}")
    if engine.passed:
        near = "" if engine.gate.decided else " More chains could still change this."
        return Verdict("good", "✓ passes", f"Its samples are as close to FP32's as FP32's are to each other. {told}{near}")
    failed = [entry for entry in engine.gate.verdicts if not entry.passed]
    near = "" if engine.gate.decided else " More chains could still change this."
    count = f"{len(failed)} of {len(engine.gate.verdicts)} metrics" if len(engine.gate.verdicts) > 1 else "the metric"
    told = told.replace("Nearest to the gate is", "Worst is")
    return Verdict("bad", "✕ fails", f"Its samples can be told from FP32's by {count}. {told}{near}")


def headline(comparison: Comparison) -> tuple[str, list[str]]:
    """The whole comparison in two or three sentences, and the class of its colour."""
    judged = [engine for engine in comparison.candidates if engine.gate is not None or engine.failure]
    passed = [engine for engine in judged if engine.passed]
    if not judged:
        return "told", ["There was no engine to judge beside the reference."]
    lines = [
        f"{_count(len(passed), len(judged))} the same samples as FP32, as far as {comparison.plan.pool} chains can tell: "
        f"no metric is more than {format_number(comparison.plan.gate)} times the seed noise floor away."
    ]
    timed = [(comparison.speed(engine), engine) for engine in passed]
    quick = [(speed, engine) for speed, engine in timed if speed is not None]
    if quick:
        speed, engine = max(quick, key=lambda pair: pair[0])
        lines.append(
            f"The fastest that passes is {engine.name}: {times_as_fast(speed)} {comparison.reference} per step, "
            f"{format_number(engine.bytes / max(comparison.first.bytes, 1), 2)} times its size."
        )
    failed = [engine.name for engine in judged if not engine.passed]
    if failed:
        lines.append(f"Not to be used in FP32's place: {', '.join(failed)}.")
    return ("good" if len(passed) == len(judged) else "bad" if not passed else "told"), lines


def times_as_fast(speed: float | None) -> str:
    """A speed-up in words."""
    if speed is None or not math.isfinite(speed):
        return "not timed against"
    return "as fast as" if 0.97 < speed < 1.03 else f"{format_number(speed)} times as fast as"


def _count(passed: int, judged: int) -> str:
    if passed == judged:
        return "The one candidate draws" if judged == 1 else f"All {judged} candidates draw"
    if passed == 0:
        return "The one candidate does not draw" if judged == 1 else f"None of the {judged} candidates draws"
    return f"{passed} of {judged} candidates {'draws' if passed == 1 else 'draw'}"
