"""Renders a comparison as one HTML file that needs no network and no script."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ..comparison import Comparison, EngineResult, ModelSummary
from ..layer_precisions import LayerPrecision, Layers
from ..metrics.score_fidelity import StageFidelity
from ..verdict import MetricVerdict
from .beside import beside_the_gate
from .charts import Bar, Interval, Line, Point, bars, forest, histogram, lines, points, trade_off
from .fidelity_rows import FIDELITY_COLUMNS, fidelity_rows
from .likelihoods import likelihoods
from .pictures import heat_strips, image_sheet, look_of
from .scale import format_number
from .words import HOW_TO_READ, METRICS, headline, metric_name, own_limit, percent, verdict

__all__ = ["render_report"]

_COLOURS = 8
_BITS = {"int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}


def render_report(comparison: Comparison) -> str:
    """Returns the report as HTML."""
    folder = resources.files(__package__)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(folder.joinpath("report.html.jinja").read_text(encoding="utf-8"))
    css = {engine.name: f"s{index % _COLOURS}" for index, engine in enumerate(comparison.candidates)}
    css[comparison.reference] = "ref"
    colour, sentences = headline(comparison)
    return template.render(
        css=Markup(folder.joinpath("style.css").read_text(encoding="utf-8")),
        title=_title(comparison),
        subtitle=_subtitle(comparison),
        headline={"css": colour, "lines": sentences},
        engines=[_card(engine, comparison, css) for engine in comparison.engines],
        not_run=comparison.not_run,
        trade_off=_trade_off(comparison, css),
        trade_off_caption=_trade_off_caption(comparison),
        times=_times(comparison, css),
        power=comparison.power[:1].upper() + comparison.power[1:] + ".",
        pictures=_pictures(comparison, css),
        gate=_gate(comparison, css),
        beside=beside_the_gate(comparison, css),
        likelihood=likelihoods(comparison, css),
        energies=_energies(comparison, css),
        fidelity=_fidelity(comparison, css),
        modes=_modes(comparison, css),
        auroc=[
            {"css": css[engine.name], "name": engine.name, "value": format_number(engine.auroc, 4)}
            for engine in comparison.engines
            if engine.auroc is not None
        ],
        layers=_layers(comparison),
        how=HOW_TO_READ,
        facts=_facts(comparison),
        models=[_model(model) for model in comparison.models],
    )


def _title(comparison: Comparison) -> str:
    count = len(comparison.candidates)
    beside = "engine" if count == 1 else "engines"
    return f"{' and '.join(model.name for model in comparison.models)}: FP32 beside {count} {beside}"


def _subtitle(comparison: Comparison) -> str:
    machine = (
        comparison.device.get("board") or comparison.device.get("processor") or comparison.device.get("system", "")
    )
    day = comparison.created.replace("T", " ")[:16]
    return f"Compared on {machine}, {day} UTC, {comparison.plan.pool} chains for each engine."


def _card(engine: EngineResult, comparison: Comparison, css: dict[str, str]) -> dict[str, Any]:
    own = engine.step_time(comparison.batches[-1])
    speed = comparison.speed(engine)
    figures = [
        ("worst ratio", format_number(max((entry.ratio for entry in engine.ratios), default=None)), ""),
        ("ms per step", "–" if own is None else format_number(own.median), ""),
        ("speed", "–" if speed is None else f"{format_number(speed, 2)}×", ""),
        ("size", *_size(engine.bytes)),
    ]
    if engine.energy is not None:
        figures.append(("energy", format_number(1e3 * engine.energy.joules_per_sample), "mJ/sample"))
    if engine.same_noise_distance is not None:
        figures.append(("off under same noise", percent(engine.same_noise_distance), ""))
    return {
        "name": engine.name,
        "css": css[engine.name],
        "verdict": verdict(engine, comparison),
        "figures": figures,
        "note": engine.note,
    }


def _trade_off(comparison: Comparison, css: dict[str, str]) -> Markup:
    shown = []
    for engine in comparison.engines:
        own, worst, off = engine.step_time(comparison.batches[-1]), engine.worst, engine.quality
        if own is None or worst is None or off is None or not math.isfinite(off):
            continue
        scale = comparison.plan.gate / worst.limit  # a limit of another kind is drawn as if it were the gate
        low, high = (number * scale if math.isfinite(number) else None for number in (worst.low, worst.high))
        css_of = css[engine.name]
        shown.append(Point(engine.name, css_of, own.median, off, low, high, engine.front, engine.passed))
    batch = comparison.batches[-1]
    return Markup(
        trade_off(
            "Quality against time of a step",
            shown,
            gate=comparison.plan.gate,
            x_label=f"ms per step of {batch} chain{'s' if batch > 1 else ''}",
            y_label="worst ratio to the noise floor",
        )
    )


def _beyond_chart(comparison: Comparison) -> list[EngineResult]:
    """Engines that have no place in a chart of ratios, since the worst of theirs is no finite number."""
    return [engine for engine in comparison.engines if engine.quality is not None and math.isinf(engine.quality)]


def _trade_off_caption(comparison: Comparison) -> str:
    names = [engine.name for engine in _beyond_chart(comparison)]
    return f"Not in the chart, infinitely far beyond the gate: {', '.join(names)}." if names else ""


def _times(comparison: Comparison, css: dict[str, str]) -> dict[str, Any]:
    timed = [f"ms per step, {batch} chain{'s' if batch > 1 else ''}" for batch in comparison.batches]
    powered = any(engine.energy for engine in comparison.engines)
    columns = ["size", *timed, "speed"] + (["mJ per sample", "W, idle W"] if powered else [])
    rows = []
    for engine in comparison.engines:
        values = [" ".join(_size(engine.bytes))]
        for batch in comparison.batches:
            own = engine.step_time(batch)
            values.append("–" if own is None else _spread(own.median, own.low, own.high))
        speed = comparison.speed(engine)
        values.append("–" if speed is None else f"{format_number(speed, 2)}×")
        if powered:
            use = engine.energy
            values.append("–" if use is None else format_number(1e3 * use.joules_per_sample))
            values.append("–" if use is None else f"{format_number(use.watts)}, {format_number(use.idle_watts)}")
        rows.append({"name": engine.name, "css": css[engine.name], "values": values})
    text = (
        "Median, with the 10th and 90th percentile over rounds in which the engines took turns. "
        f"Speed is relative to {comparison.reference} at {comparison.batches[-1]} chains."
    )
    return {"columns": columns, "rows": rows, "text": text}


def _pictures(comparison: Comparison, css: dict[str, str]) -> dict[str, Any]:
    reference = comparison.pictures[comparison.reference]
    look = look_of(reference.shape[1:])
    low, high = _value_range(comparison, reference)
    entries = []
    for engine in comparison.engines:
        samples = comparison.pictures.get(engine.name)
        if samples is None:
            continue
        said = verdict(engine, comparison)
        entries.append(
            {
                "name": engine.name,
                "css": css[engine.name],
                "badge": said,
                "body": _picture(engine.name, samples, reference, look, (low, high), css[engine.name]),
                "caption": _difference(engine, comparison),
            }
        )
    shown = {
        "images": f"{len(reference)} samples of each engine, drawn with the same seed and the same noise, in the same places. "
        f"Black is {format_number(low)}, white {format_number(high)}.",
        "points": f"{len(reference)} samples of each engine, drawn with the same seed and the same noise; FP32's in grey.",
        "numbers": f"{len(reference)} samples of each engine, drawn with the same seed and the same noise; FP32's filled.",
        "strips": f"One row per sample, one column for each of the first numbers of x; {len(reference)} samples drawn with "
        f"the same seed and the same noise. Blue is {format_number(low)}, red {format_number(high)}.",
    }
    return {"entries": entries, "text": shown[look]}


def _picture(
    name: str, samples: np.ndarray, reference: np.ndarray, look: str, ends: tuple[float, float], css: str
) -> Markup:
    if look == "images":
        height, width = samples.shape[2:]
        columns = 8 if width <= 2 * height else 4
        uri = image_sheet(samples, *ends, columns)
        return Markup(f'<img class="sheet" src="{uri}" alt="samples of {escape(name, quote=True)}">')
    if look == "strips":
        uri = heat_strips(samples, *ends)
        return Markup(f'<img class="sheet strips" src="{uri}" alt="samples of {escape(name, quote=True)}">')
    own = None if samples is reference else samples
    if look == "points":
        pairs = [[(float(x), float(y)) for x, y in cloud.reshape(len(cloud), 2)] for cloud in (reference, samples)]
        return Markup(points(f"samples of {name}", pairs[0], None if own is None else pairs[1], css))
    edges = np.linspace(*ends, 31)
    shares = [np.histogram(cloud, edges)[0] / len(cloud) for cloud in (reference, samples)]
    line = None if own is None else Line(name, css, shares[1].tolist())
    return Markup(histogram(f"samples of {name}", edges.tolist(), shares[0].tolist(), line, x_label="x"))


def _value_range(comparison: Comparison, reference: np.ndarray) -> tuple[float, float]:
    """The sampler's bounds, or else nearly all of FP32's numbers."""
    bounds = comparison.models[0].sampler.get("bounds")
    if bounds:
        return float(bounds[0]), float(bounds[1])
    low, high = (float(end) for end in np.quantile(reference, [0.005, 0.995]))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _difference(engine: EngineResult, comparison: Comparison) -> str:
    if engine.name == comparison.reference:
        return "What the others are compared with."
    if engine.same_noise_distance is None:
        return "FP32's samples have no spread that a difference from them could be a share of."
    share = percent(engine.same_noise_distance)
    return f"Off from FP32 under the same noise by {share} of the spread of FP32's samples (rms)."


def _gate(comparison: Comparison, css: dict[str, str]) -> dict[str, Any]:
    entries, seen = [], dict[str, None]()
    for engine in comparison.engines:
        if engine.gate is None:
            continue
        seen |= dict.fromkeys(entry.metric for entry in engine.gate.verdicts)
        ratios = engine.ratios
        shown = [
            Interval(metric_name(entry.metric), entry.ratio, _finite(entry.low), _finite(entry.high), entry.passed)
            for entry in ratios
        ]
        entries.append(
            {
                "name": engine.name,
                "css": css[engine.name],
                "badge": verdict(engine, comparison),
                "chart": Markup(forest(f"metrics of {engine.name}", shown, gate=comparison.plan.gate)),
                "apart": [
                    {"text": own_limit(entry), "badge": _badge(entry)}
                    for entry in engine.gate.verdicts
                    if entry not in ratios
                ],
                "reason": engine.gate.reason[:1].upper() + engine.gate.reason[1:],
                "rows": [_metric_row(entry) for entry in engine.gate.verdicts],
            }
        )
    plan = comparison.plan
    text = (
        f"{plan.pool} chains of each engine were compared in sets of {plan.subset}. A shift of "
        f"{format_number(plan.smallest_difference, 2)} standard deviations raises a ratio to the gate, and one of "
        f"{format_number(plan.sure_difference, 2)} is caught 95 times in 100. An engine without fault is over the gate in "
        f"one metric with a chance of {format_number(plan.false_failure, 2)}. Samples were compared by {comparison.features}."
    )
    return {"entries": entries, "text": text, "words": [METRICS.get(name, (metric_name(name), "")) for name in seen]}


def _metric_row(entry: MetricVerdict) -> dict[str, Any]:
    return {
        "name": metric_name(entry.metric),
        "badge": _badge(entry),
        "value": format_number(entry.value),
        "floor": format_number(entry.floor),
        "ratio": format_number(entry.ratio),
        "interval": f"{format_number(entry.low)} to {format_number(entry.high)}",
        "limit": format_number(entry.limit),
        "p": format_number(entry.p_value, 2),
        "note": entry.note,
    }


def _badge(entry: MetricVerdict) -> dict[str, str]:
    word = "✓ passes" if entry.passed else "✕ fails"
    return {"css": "good" if entry.passed else "bad", "word": word if entry.decided else f"{word}, undecided"}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _energies(comparison: Comparison, css: dict[str, str]) -> dict[str, Any]:
    found = comparison.energies
    reference = found.share[comparison.reference]
    entries = []
    for engine in comparison.candidates:
        if engine.name not in found.share:
            continue
        line = Line(engine.name, css[engine.name], found.share[engine.name])
        chart = histogram(
            f"energies of {engine.name}", found.edges, reference, line, x_label="FP32 energy of the sample"
        )
        entry = next((one for one in engine.gate.verdicts if "energy" in one.metric), None) if engine.gate else None
        caption = "" if entry is None else (
            f"{metric_name(entry.metric)}: {format_number(entry.value)}, FP32 to itself {format_number(entry.floor)}."
        )  # fmt: skip
        entries.append({"name": engine.name, "css": css[engine.name], "chart": Markup(chart), "caption": caption})
    text = (
        "Share of the samples by their FP32 energy: FP32's own samples filled, each engine's as an outline over them."
    )
    return {"entries": entries, "text": text}


_FIDELITY = (
    ("1 − cosine", "The angle between the two gradients, mean over states; smaller is better.", "cosine", None),
    ("gain", "By how much the gradient is too long or too short; the dashed line is 1 %.", "gain", 0.01),
    (
        "bias",
        "The error that is the same for all states, relative to the gradient; it moves the samples.",
        "bias",
        0.01,
    ),
    ("noise", "The error that differs from state to state; much less harmful than bias.", "noise", None),
)
_SMALLEST = 1e-6
"""A gain or bias below this is drawn at it: float32 itself is off by about as much."""


def _fidelity(comparison: Comparison, css: dict[str, str]) -> dict[str, Any] | None:
    shown = [engine for engine in comparison.candidates if engine.fidelity]
    if not shown:
        return None
    steps = sorted({stage.step for engine in shown for stage in engine.fidelity})
    charts = []
    for name, caption, kind, limit in _FIDELITY:
        series = []
        for engine in shown:
            by_step = {stage.step: _fidelity_value(stage, kind) for stage in engine.fidelity}
            series.append(Line(engine.name, css[engine.name], [by_step.get(step) for step in steps]))
        chart = lines(name, [float(step) for step in steps], series, x_label="steps taken", limit=limit)
        charts.append({"name": name, "caption": caption, "chart": Markup(chart)})
    apart = [model.name for model in comparison.models if not model.same_as_first]
    text = "Each engine's gradient beside FP32's, at states that FP32's own chains go through."
    if apart:
        text += f" Left out for {', '.join(apart)}: another model has another gradient."
    tables = [{"name": engine.name, "css": css[engine.name], "rows": fidelity_rows(engine)} for engine in shown]
    return {
        "text": text,
        "charts": charts,
        "legend": _legend(shown, css),
        "columns": FIDELITY_COLUMNS,
        "tables": tables,
    }


def _fidelity_value(stage: StageFidelity, kind: str) -> float:
    if kind == "cosine":
        return 1 - stage.cosine_mean
    return {"gain": max(abs(stage.gain), _SMALLEST), "bias": max(stage.bias, _SMALLEST), "noise": stage.noise}[kind]


def _modes(comparison: Comparison, css: dict[str, str]) -> dict[str, Any] | None:
    found = comparison.modes
    if found is None:
        return None
    shown = [engine for engine in comparison.candidates if engine.name in found.share]
    word, first = ("class", 0) if found.classes else ("mode", 1)  # a class has the number that its network gives it
    several, count = "classes" if found.classes else "clusters", len(found.reference)
    # Clusters are numbered by their size, classes by their network.
    x_label = "class" if found.classes else "mode, the largest first"
    groups = [Bar(str(mode + first), found.reference[mode], mode in found.rare) for mode in found.shown]
    series = [
        Line(engine.name, css[engine.name], [found.share[engine.name][mode] for mode in found.shown])
        for engine in shown
    ]
    pictures = []
    if comparison.mode_pictures is not None and look_of(comparison.mode_pictures.shape[1:]) == "images":
        ends = _value_range(comparison, comparison.pictures[comparison.reference])
        pictures = [
            {"name": mode + first, "uri": image_sheet(picture[None], *ends, 1), "rare": mode in found.rare}
            for mode, picture in zip(found.shown, comparison.mode_pictures, strict=True)
        ]
    lost = [
        f"{name} draws too few of {_modes_said(modes, count, found.classes)}."
        for name, modes in found.lost.items()
        if modes
    ]
    some = "" if len(groups) == count else (
        f" {len(groups)} of them are shown, some of the largest, of the rare and of those that an engine lost; report.json has all."
    )  # fmt: skip
    return {
        "text": f"FP32's samples fall into {count} {several}.{some} Bars are FP32's share of each, dots the engines'; a star marks "
        "a rare mode, one with less than half of an equal share.",
        "legend": _legend(shown, css),
        "chart": Markup(
            bars("shares of the modes", groups, series, word=word, x_label=x_label, y_label="share of the samples")
        ),
        "pictures": pictures,
        "columns": [engine.name for engine in shown],
        "rows": [
            {
                "name": f"{word} {mode + first}",
                "reference": percent(found.reference[mode]),
                "values": [percent(found.share[engine.name][mode]) for engine in shown],
            }
            for mode in found.shown
            if mode in found.rare
        ],
        "no_rows": "No mode holds less than half of an equal share of FP32's samples."
        if not found.rare
        else f"FP32 has no sample of the {len(found.rare)} that hold less than half of an equal share.",
        "lost": lost or ["No engine draws a mode significantly less often than FP32 does."],
    }


def _modes_said(modes: tuple[int, ...], count: int, classes: bool) -> str:
    one, several, first = ("class", "classes", 0) if classes else ("mode", "modes", 1)
    if len(modes) > 6:
        return f"{len(modes)} of the {count} {several}"
    return f"{several if len(modes) > 1 else one} {', '.join(str(mode + first) for mode in modes)}"


def _layers(comparison: Comparison) -> list[dict[str, Any]]:
    """One entry for all artifacts of a bundle whose layers are alike."""
    alike: dict[tuple[str, tuple[LayerPrecision, ...]], list[Layers]] = {}
    for layers in comparison.layers:
        alike.setdefault((layers.bundle, layers.nodes), []).append(layers)
    found = []
    for (bundle, nodes), same in alike.items():
        counts = same[0].counts
        lowest = min(counts, key=lambda precision: (_BITS.get(precision, 32), precision))
        parts = ", ".join(f"{count} in {precision}" for precision, count in counts.items())
        found.append(
            {
                "name": f"{bundle}: {', '.join(layers.artifact for layers in same)}",
                "text": f"{len(nodes)} layers: {parts}.",
                "rows": [node for node in nodes if node.precision != lowest],
            }
        )
    return found


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    facts = [*comparison.device.items(), *comparison.toolchain.items()]
    facts.append(("seeds", ", ".join(f"{name} {seed}" for name, seed in comparison.seeds.items())))
    facts.append(("took", f"{comparison.seconds / 60:.1f} min"))
    return facts


def _model(model: ModelSummary) -> dict[str, Any]:
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in model.sampler.items() if value is not None)
    inputs = "; ".join([f"x {list(model.shape)}", *(f"{name} {list(shape)}" for name, shape in model.cond.items())])
    written = ", ".join(f"{name} {version}" for name, version in model.created_with.items())
    return {
        "name": f"The bundle {model.name}",
        "facts": [("model", model.model), ("inputs", inputs), ("sampler", settings), ("written with", written)],
    }


def _setting(value: Any) -> str:
    if isinstance(value, list):
        numbers = [format_number(float(number)) for number in value]
        return " to ".join((numbers[0], numbers[-1])) if len(numbers) > 4 else ", ".join(numbers)
    return format_number(value) if isinstance(value, float) else str(value)


def _legend(engines: Iterable[EngineResult], css: dict[str, str]) -> Markup:
    entries = (f'<li><span class="key {css[engine.name]}"></span>{escape(engine.name)}</li>' for engine in engines)
    return Markup(f'<ul class="legend">{"".join(entries)}</ul>')


def _spread(median: float, low: float, high: float) -> str:
    return f"{format_number(median)} ({format_number(low)} to {format_number(high)})"


def _size(count: int) -> tuple[str, str]:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 2**power:
            return format_number(count / 2**power), unit
    return str(count), "B"
