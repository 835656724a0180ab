"""Renders a comparison as one HTML file that needs no network and no script."""

from __future__ import annotations

import math
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from ..comparison import Comparison, EngineResult, ModelSummary
from ..layer_precisions import LayerPrecision, Layers
from .beside import beside_the_gate
from .charts import Line, Point, histogram, trade_off
from .gate import at_the_gate
from .gradients import gradient_along_the_chain
from .likelihoods import likelihoods
from .modes import shares_of_modes
from .samples import samples_side_by_side
from .scale import format_number
from .words import HOW_TO_READ, headline, metric_name, percent, verdict

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
        pictures=samples_side_by_side(comparison, css),
        gate=at_the_gate(comparison, css),
        beside=beside_the_gate(comparison, css),
        likelihood=likelihoods(comparison, css),
        energies=_energies(comparison, css),
        fidelity=gradient_along_the_chain(comparison, css),
        modes=shares_of_modes(comparison, css),
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
    if engine.exact is not None:
        figures.append(("blocks accepted", format_number(engine.exact.block_acceptance), ""))
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
    if comparison.not_timed:
        text += f" No time of a step for {'; for '.join(comparison.not_timed)}."
    return {"columns": columns, "rows": rows, "text": text}


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


def _spread(median: float, low: float, high: float) -> str:
    return f"{format_number(median)} ({format_number(low)} to {format_number(high)})"


def _size(count: int) -> tuple[str, str]:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 2**power:
            return format_number(count / 2**power), unit
    return str(count), "B"
