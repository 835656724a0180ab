"""The report in plain words: verdicts, metrics, and how to read it all."""

from __future__ import annotations

import math

from ..comparison import Comparison, EngineResult
from ..verdict import MetricVerdict
from .scale import format_number

__all__ = ["HOW_TO_READ", "METRICS", "Verdict", "headline", "metric_name", "own_limit", "percent", "said", "verdict"]

METRICS: dict[str, tuple[str, str]] = {
    "energy": ("energy", "Wasserstein-1 distance of the FP32 energies of the samples: are they as likely as FP32's?"),
    "sliced wasserstein": ("sliced W1", "Wasserstein-1 distance of x along random directions: the whole distribution."),
    "mmd": ("MMD", "Maximum mean discrepancy with a Gaussian kernel: differences anywhere, near and far."),
    "frechet": (
        "Fréchet",
        "Distance of mean and covariance of at most 16 leading components, without their farthest 0.5 % at each end. "
        "No FID, whatever the features: that takes all of them as they are.",
    ),
    "density": (
        "density",
        "How deep the samples lie among FP32's: too low is poor samples, too high is too tame ones.",
    ),
    "coverage": ("coverage", "How much of FP32's variety is met."),
    "modes": ("modes", "Shares of the clusters, or the classes, that the samples fall into."),
    "rare modes": (
        "rare modes",
        "The largest loss that any one mode, rare or not, surely suffered; half of its mass is the limit. "
        "The other figures hardly see a rare one go.",
    ),
    "stein": ("Stein", "Kernel Stein discrepancy: do the samples follow the FP32 gradient? Needs no other samples."),
    "score gain": (
        "gradient gain",
        "How much too long or short the gradient is along the chain; 1 % of it is the limit.",
    ),
    "score bias": (
        "gradient bias",
        "The gradient's constant error along the chain; 1 % of its size is the limit.",
    ),
    "score gain by condition": (
        "gradient gain by condition",
        "The same at each condition, root mean square over them; 2 % is the limit.",
    ),
    "score bias by condition": (
        "gradient bias by condition",
        "The gradient's constant error at each condition, root mean square over them; 2 % of its size is the limit.",
    ),
    "finite": ("finite", "Chains that left the numbers a float can hold, or went far out."),
}
"""For each metric of the gate its name in the report, and what it sees."""

_NO_FLOOR = "FP32's distance from itself is 0, the engine's is not"
"""Why a ratio is infinite."""

_OF_SCORE = tuple(metric for metric in METRICS if metric.startswith("score"))

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
    if engine.failure:
        return Verdict("bad", "✕ broke off", f"{engine.failure}.")
    if engine.gate is None:
        return Verdict("told", "not judged", "Its samples were not judged.")
    worst = said(engine)
    near = "" if engine.gate.decided else " More chains could still change this."
    if engine.name == comparison.reference:
        control = "passes, as it should" if engine.passed else "fails, so read the others with care"
        text = f"What the others are compared with. Judged like them, with another seed, it {control}. {worst}"
        return Verdict("told", "reference", text)
    if engine.passed:
        return Verdict(
            "good", "✓ passes", f"Its samples are as close to FP32's as FP32's are to each other. {worst}{near}"
        )
    failed = [entry for entry in engine.gate.verdicts if not entry.passed]
    if all(entry.metric in _OF_SCORE for entry in failed):
        text = "Its samples pass, its gradient does not: another start or temperature could show it."
    else:
        text = f"Its samples can be told from FP32's by {len(failed)} of {len(engine.gate.verdicts)} metrics."
    return Verdict("bad", "✕ fails", f"{text} {worst}{near}")


def said(engine: EngineResult) -> str:
    """One sentence on the verdict to name first."""
    worst = engine.worst
    if worst is None:
        return ""
    if _has_own_limit(worst):
        return f"Worst: {own_limit(worst)}."
    if math.isinf(worst.ratio):
        return f"Largest ratio: {metric_name(worst.metric)}, infinite: {_NO_FLOOR}."
    ratio = f"{format_number(worst.ratio)} times the noise floor, {format_number(worst.limit)} is allowed"
    interval = f"95 % interval {format_number(worst.low)} to {format_number(worst.high)}"
    return f"Largest ratio: {metric_name(worst.metric)}, {ratio} ({interval})."


def own_limit(entry: MetricVerdict) -> str:
    """A verdict that is no ratio to the noise floor, in words, without a full stop."""
    name = metric_name(entry.metric)
    if entry.metric in _OF_SCORE and math.isnan(entry.value):
        return f"{name} not known: {entry.note}"
    if entry.metric in _OF_SCORE:
        return f"{name} {percent(entry.value)}, {percent(entry.floor)} is allowed"
    if entry.metric == "rare modes":
        counts = entry.note.partition(": ")[2]  # the gate's modes are those of both pools, numbered otherwise
        chance = f"p {format_number(entry.p_value, 2)}"
        return f"largest sure loss of a mode {percent(entry.value)} (the worst: {counts}, {chance})"
    if entry.metric == "finite":
        return f"{entry.note} left the numbers a float can hold, or went far out"
    return f"{name} {format_number(entry.ratio)}, {format_number(entry.limit)} is allowed"


def headline(comparison: Comparison) -> tuple[str, list[str]]:
    """The whole comparison in two or three sentences, and the class of its colour."""
    judged = [engine for engine in comparison.candidates if engine.gate is not None or engine.failure]
    passed = [engine for engine in judged if engine.passed]
    if not judged:
        return "told", ["There was no engine to judge beside the reference."]
    lines = [_count(passed, judged, comparison)]
    lines += _fastest(passed, comparison)
    failed = [engine.name for engine in judged if not engine.passed]
    if failed:
        lines.append(f"Not to be used in FP32's place: {', '.join(failed)}.")
    return ("good" if len(passed) == len(judged) else "bad" if not passed else "told"), lines


def _fastest(passed: list[EngineResult], comparison: Comparison) -> list[str]:
    """Sentences on the fastest that passes, and on those whose times overlap its own.

    Times overlap where their spreads do, 10th to 90th percentile; no speed is named of engines that overlap the reference.
    """
    batch, reference = comparison.batches[-1], comparison.reference
    timed = [(own, engine) for engine in passed if (own := engine.step_time(batch)) is not None]
    fp32 = comparison.first.step_time(batch)
    if not timed or fp32 is None:
        return []
    timed.sort(key=lambda pair: pair[0].median)
    sure = [(own, engine) for own, engine in timed if own.high < fp32.low]
    if fp32.median / (sure or timed)[0][0].median <= 1.03:  # less is nothing to choose an engine for
        return [f"None of those that pass is faster per step than {reference} on this machine."]
    # Whoever begins above the lowest end is slower than one of the others; any two of the rest overlap.
    end = min(own.high for own, _ in sure or timed)
    end = end if sure else min(end, fp32.high)  # nor is one that is slower than the reference
    even = [(own, engine) for own, engine in sure or timed if own.low <= end]
    names = [engine.name for _, engine in even]
    size = _listed([format_number(engine.bytes / max(comparison.first.bytes, 1), 2) for _, engine in even])
    if not sure:
        return [
            f"The fastest that passes may be {_listed(names, 'or')}, at {size} times the size of {reference}: their times per step "
            "overlap, and only a quieter machine can tell which is faster."
        ]
    speed = _listed([format_number(fp32.median / own.median, 2) for own, _ in even])
    gain = f"{speed} times as fast per step as {reference}, at {size} times its size."
    if len(even) == 1:
        said = [f"The fastest that passes is {names[0]}: {gain}"]
    else:
        said = [f"The fastest that pass are {_listed(names)}, as fast as one another, as their times overlap: {gain}"]
    open_cases = [engine.name for own, engine in timed if own.high >= fp32.low and own.low <= end]
    if open_cases:
        said.append(f"{_listed(open_cases)} may be as fast: the times per step vary too much to tell.")
    return said


def _listed(words: list[str], last: str = "and") -> str:
    """Words as a sentence has them; where all are the same, as numbers may be, one of them."""
    if len(set(words)) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def percent(share: float) -> str:
    """A share for people; what rounds to nothing says so."""
    return "< 0.01 %" if 0 < share < 1e-4 else f"{format_number(100 * share, 2)} %"


def _count(passed: list[EngineResult], judged: list[EngineResult], comparison: Comparison) -> str:
    """How many pass, and by what; where none does, samples may be fine and the gradient not, so samples are not named."""
    tell = f"as far as {comparison.plan.pool} chains can tell"
    if not passed and len(judged) > 1:
        return f"None of the {len(judged)} candidates can stand in for FP32, {tell}."
    if not passed:
        worst = judged[0].worst
        if worst is None:
            return "The one candidate cannot stand in for FP32: it broke off."
        why = f"{metric_name(worst.metric)} is {format_number(worst.ratio)} times the seed noise floor away"
        why = f"{why}, {format_number(worst.limit)} is allowed"
        if math.isinf(worst.ratio):
            why = f"{metric_name(worst.metric)} is infinitely far beyond the seed noise floor, since {_NO_FLOOR}"
        why = own_limit(worst) if _has_own_limit(worst) else why
        return f"The one candidate cannot stand in for FP32, {tell}: {why}."
    if len(judged) == 1:
        draw = "The one candidate draws"
    elif len(passed) == len(judged):
        draw = f"All {len(judged)} candidates draw"
    else:
        draw = f"{len(passed)} of {len(judged)} candidates {'draws' if len(passed) == 1 else 'draw'}"
    gate = f"{format_number(comparison.plan.gate)} times the seed noise floor"
    return (
        f"{draw} the same samples as FP32, {tell}: none of {'its' if len(passed) == 1 else 'their'} metrics is more than "
        f"{gate} away."
    )


def _has_own_limit(entry: MetricVerdict) -> bool:
    """Whether a verdict is no ratio to the noise floor."""
    return entry.metric in _OF_SCORE or entry.metric in ("rare modes", "finite")
