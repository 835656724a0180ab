"""The report's charts, as inline SVG.

Every function returns one `<svg>` element whose colours come from the page's CSS (classes `s0`, `s1`, .. for the
candidates, `ref` for FP32), so that one drawing serves light and dark pages. The drawings are about as wide as a phone,
so that their text stays readable there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .scale import Scale, format_number, scale_over

__all__ = ["Bar", "Interval", "Line", "Point", "bars", "forest", "histogram", "lines", "points", "trade_off"]

_WIDTH = 360.0
_LONGEST_NAME = 40
"""Letters of a name beside a point, of which 52 are as wide as the chart; the tooltip has all of them."""
_TALLEST = 3.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 12.0, 36.0


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: for the tooltip.
        css: class that gives the colour.
        values: one per place on the x axis; None leaves a gap.
    """

    name: str
    css: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Point:
    """One engine in the trade-off of quality and time.

    Attributes:
        name: written beside it.
        css: class that gives the colour.
        x: time.
        y: how far its samples are off.
        low: lower end of the interval of `y`; None for no interval.
        high: upper end.
        front: whether it is on the Pareto front.
        passed: whether it passes the gate; None where it is not judged.
    """

    name: str
    css: str
    x: float
    y: float
    low: float | None
    high: float | None
    front: bool
    passed: bool | None


@dataclass(frozen=True)
class Interval:
    """One metric's ratio with its confidence interval.

    Attributes:
        name: of the metric.
        value: the ratio; infinite where FP32 is at no distance from itself and the engine is, None or NaN for none.
        low: lower end of the interval, or None.
        high: upper end, or None.
        passed: whether the gate holds; None where the metric is only told.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    passed: bool | None


@dataclass(frozen=True)
class Bar:
    """One group of a bar chart: its name, FP32's value, and whether to draw attention to it."""

    name: str
    value: float
    marked: bool = False


def lines(
    title: str,
    x: Sequence[float],
    series: Sequence[Line],
    *,
    x_label: str,
    limit: float | None = None,
) -> str:
    """A line chart over numbers x (steps) with a logarithmic axis, on which 0 leaves a gap; `limit` is a dashed line."""
    height = 210.0
    across = scale_over(x, _LEFT, _WIDTH - _RIGHT)
    across = Scale(min(x), max(x) if max(x) > min(x) else min(x) + 1, across.start, across.end)
    numbers = [value for line in series for value in line.values]
    up = scale_over([*numbers, limit], height - _BOTTOM, _TOP, log=True)
    drawn = [_frame(across, up, height, x_label)]
    if limit is not None:
        y = up(limit)
        drawn.append(f'<line class="gate" x1="{across.start}" x2="{across.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for line in series:
        drawn.append(f'<g class="{line.css}">')
        for run in _runs(x, line.values):
            path = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in run)
            drawn.append(f'<polyline class="line" points="{path}"/>')
            drawn.extend(
                f'<circle class="dot" cx="{across(at):.1f}" cy="{up(value):.1f}" r="2.6">'
                f"<title>{escape(line.name)}, step {format_number(at)}: {format_number(value)}</title></circle>"
                for at, value in run
            )
        drawn.append("</g>")
    return _svg(title, height, drawn)


def histogram(
    title: str, edges: Sequence[float], reference: Sequence[float], line: Line | None, *, x_label: str
) -> str:
    """Two histograms over the same bins: FP32 filled, a candidate as an outline.

    Args:
        title: for a screen reader.
        edges: [K + 1] ends of the bins.
        reference: [K] share of FP32's samples in each bin.
        line: [K] likewise for a candidate; None draws FP32 alone.
        x_label: what the bins count.
    """
    height = 190.0
    across = Scale(edges[0], edges[-1], _LEFT, _WIDTH - _RIGHT)
    up = scale_over([*reference, *(line.values if line else [])], height - _BOTTOM, _TOP, zero=True)
    drawn = [_frame(across, up, height, x_label, ticks=4)]
    drawn.append(f'<path class="ref area" d="{_steps(across, up, edges, reference, closed=True)}"/>')
    if line is not None:
        values = [value or 0.0 for value in line.values]
        drawn.append(f'<path class="{line.css} line" d="{_steps(across, up, edges, values, closed=False)}"/>')
    return _svg(title, height, drawn)


def trade_off(title: str, engines: Sequence[Point], *, gate: float, x_label: str, y_label: str) -> str:
    """Quality against time, both better towards the lower left; the Pareto front as a line, the gate as another."""
    width, height = 400.0, 290.0
    numbers = [number for engine in engines for number in (engine.y, engine.low, engine.high)]
    times = [engine.x for engine in engines] or [1.0]
    room = 0.35 * (max(times) - min(times)) + 0.08 * max(times)  # for the names
    across = Scale(max(0.0, min(times) - room), max(times) + room, _LEFT, width - _RIGHT)
    numbers += [gate, 1.0]
    up = scale_over(numbers, height - _BOTTOM, _TOP + 12, log=_far_apart(numbers))
    drawn = [_frame(across, up, height, x_label, width=width)]
    drawn.append(f'<text class="label" x="4" y="11">{escape(y_label)}</text>')
    drawn.append(f'<rect class="inside" x="{across.start}" y="{up(gate):.1f}" width="{across.end - across.start}" '
                 f'height="{up.start - up(gate):.1f}"/>')  # fmt: skip
    drawn.append(f'<line class="gate" x1="{across.start}" x2="{across.end}" y1="{up(gate):.1f}" y2="{up(gate):.1f}"/>')
    drawn.append(
        f'<text class="gate-text" x="{across.end:.1f}" y="{_TOP + 4:.1f}" text-anchor="end">'
        f"- - gate {format_number(gate)}</text>"
    )
    front = sorted((engine for engine in engines if engine.front), key=lambda engine: engine.x)
    if len(front) > 1:
        path = "".join(
            f"{'M' if index == 0 else 'L'}{across(engine.x):.1f} {up(engine.y):.1f} "
            for index, engine in enumerate(front)
        )
        drawn.append(f'<path class="front" d="{path.strip()}"/>')
    taken: list[tuple[float, float, float, float]] = []
    for engine in engines:
        x, y = across(engine.x), up(engine.y)
        drawn.append(f'<g class="{engine.css}">')
        if engine.low is not None and engine.high is not None:
            drawn.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{up(max(engine.low, up.low)):.1f}" '
                         f'y2="{up(engine.high):.1f}"/>')  # fmt: skip
        said = f"{engine.name}: {format_number(engine.x)} ms per step, ratio {format_number(engine.y)}"
        if engine.passed is False:
            cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
            drawn.append(f'<path class="cross" d="{cross}"><title>{escape(said)}</title></path>')
        else:
            drawn.append(
                f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(said)}</title></circle>'
            )
        if engine.front:
            drawn.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>')
        drawn.append("</g>")
        taken.append((x - 9, y - 9, x + 9, y + 9))
    for engine in sorted(engines, key=lambda engine: -engine.x):
        name = _short(engine.name)
        x, y, text_width = across(engine.x), up(engine.y), 6.9 * len(name)
        left, base = _free_place(x, y, text_width, taken, (_LEFT + 2, width - 2), height - _BOTTOM)
        if abs(base - 4 - y) > 9:  # far enough away to need a line to its point
            at = min(max(x, left), left + text_width)
            edge = base - 9 if base > y else base + 3
            drawn.append(f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{at:.1f}" y2="{edge:.1f}"/>')
        drawn.append(f'<text class="mark" x="{left:.1f}" y="{base:.1f}">{escape(name)}</text>')
    return _svg(title, height, drawn, width)


def forest(title: str, rows: Sequence[Interval], *, gate: float) -> str:
    """The ratio of every metric to the noise floor, with its interval, against the gate."""
    left, top, row_height = 132.0, 20.0, 22.0
    height = top + row_height * len(rows) + 34.0
    numbers = [number for row in rows for number in (row.value, row.low, row.high)]
    numbers += [gate, 0.85, 1.0]
    across = scale_over(numbers, left, _WIDTH - _RIGHT, log=_far_apart(numbers))
    drawn = []
    for tick in across.ticks(4):
        at = across(tick)
        drawn.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{height - 30:.1f}"/>')
        drawn.append(f'<text class="tick" x="{at:.1f}" y="{height - 17:.1f}" text-anchor="middle">'
                     f"{format_number(tick)}</text>")  # fmt: skip
    for value, css in ((1.0, "one"), (gate, "gate")):
        at = across(value)
        drawn.append(f'<line class="{css}" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{height - 30:.1f}"/>')
    drawn.append(f'<text class="gate-text" x="{min(across(gate), _WIDTH - 28):.1f}" y="{top - 8}" text-anchor="middle">'
                 f"gate {format_number(gate)}</text>")  # fmt: skip
    for index, row in enumerate(rows):
        y = top + row_height * (index + 0.5)
        css = {True: "good", False: "bad", None: "told"}[row.passed]
        drawn.append(f'<text class="name" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>')
        if row.value is None or math.isnan(row.value):
            drawn.append(f'<text class="tick" x="{left + 4}" y="{y + 4:.1f}">not measured</text>')
            continue
        if math.isinf(row.value):  # at the end that is furthest from the gate, where a dot would be nearest to it
            drawn.append(f'<text class="beyond {css}" x="{across.end:.1f}" y="{y + 4:.1f}" text-anchor="end">'
                         "infinite →</text>")  # fmt: skip
            continue
        low = "none" if row.low is None else format_number(row.low)
        high = "none" if row.high is None else format_number(row.high)
        if row.low is not None and row.high is not None:
            drawn.append(f'<line class="whisker {css}" x1="{across(max(row.low, across.low)):.1f}" '
                         f'x2="{across(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')  # fmt: skip
        said = f"{row.name}: ratio {format_number(row.value)}, interval {low} to {high}"
        drawn.append(f'<circle class="dot {css}" cx="{across(row.value):.1f}" cy="{y:.1f}" r="4.2">'
                     f"<title>{escape(said)}</title></circle>")  # fmt: skip
    middle = 0.5 * (left + _WIDTH - _RIGHT)
    drawn.append(f'<text class="label" x="{middle:.1f}" y="{height - 3:.1f}" text-anchor="middle">'
                 "distance to FP32 / distance of FP32 to itself</text>")  # fmt: skip
    return _svg(title, height, drawn)


def bars(title: str, groups: Sequence[Bar], series: Sequence[Line], *, word: str, x_label: str, y_label: str) -> str:
    """One grey bar for FP32 in every group and a dot for each series on it; marked groups carry a star.

    An engine with everything in one mode would squeeze all bars flat, so a dot above three times the highest bar stands at the
    upper edge.

    Args:
        title: for a screen reader.
        groups: from left to right.
        series: one value per group.
        word: what a group is, for the tooltips.
        x_label: what the groups are, and in which order.
        y_label: what the numbers are.
    """
    height = 210.0
    top = _TALLEST * max((group.value for group in groups), default=1.0)
    numbers = [group.value for group in groups] + [value for line in series for value in line.values]
    up = scale_over(
        [None if number is None else min(number, top) for number in numbers], height - _BOTTOM, _TOP + 12, zero=True
    )
    drawn = [_frame(None, up, height, x_label)]
    drawn.append(f'<text class="label" x="4" y="11">{escape(y_label)}</text>')
    room = (_WIDTH - _RIGHT - _LEFT) / max(len(groups), 1)
    every = math.ceil(len(groups) / 16)  # numbers would run into each other
    for index, group in enumerate(groups):
        middle = _LEFT + room * (index + 0.5)
        y = up(group.value)
        drawn.append(f'<rect class="ref bar" x="{middle - 0.4 * room:.1f}" y="{y:.1f}" width="{0.8 * room:.1f}" '
                     f'height="{max(up.start - y, 0):.1f}"><title>{word} {escape(group.name)}, FP32: '
                     f"{format_number(group.value)}</title></rect>")  # fmt: skip
        if index % every == 0:
            drawn.append(f'<text class="tick" x="{middle:.1f}" y="{height - 21:.1f}" text-anchor="middle">'
                         f"{escape(group.name)}</text>")  # fmt: skip
        if group.marked:
            drawn.append(f'<text class="star" x="{middle:.1f}" y="{height - 38:.1f}" text-anchor="middle">★</text>')
    for number, line in enumerate(series):
        offset = (number + 0.5) / len(series) - 0.5
        for index, value in enumerate(line.values):
            if value is None or not math.isfinite(value):
                continue
            x = _LEFT + room * (index + 0.5 + 0.6 * offset)
            said = f"{word} {groups[index].name}, {line.name}: {format_number(value)}"
            drawn.append(f'<circle class="{line.css} dot" cx="{x:.1f}" cy="{up(value):.1f}" r="2.6">'
                         f"<title>{escape(said)}</title></circle>")  # fmt: skip
    return _svg(title, height, drawn)


def points(
    title: str, reference: Sequence[tuple[float, float]], own: Sequence[tuple[float, float]] | None, css: str
) -> str:
    """Samples of two numbers each: FP32's in grey, a candidate's over them."""
    height = 300.0
    both = [*reference, *(own or [])]
    across = scale_over([x for x, _ in both], 34.0, _WIDTH - _RIGHT)
    up = scale_over([y for _, y in both], height - 26.0, _TOP)
    drawn = [_frame(across, up, height, "", bottom=26.0)]
    for cloud, name in ((reference, "ref"), (own or [], css)):
        drawn.append(f'<g class="{name} cloud">')
        drawn.extend(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2"/>' for x, y in cloud)
        drawn.append("</g>")
    return _svg(title, height, drawn)


def _far_apart(numbers: Sequence[float | None]) -> bool:
    """Whether numbers need a logarithmic axis; a linear one is easier to read where it will do."""
    known = [number for number in numbers if number is not None and math.isfinite(number) and number > 0]
    return max(known) > 5 * min(known)


def _short(name: str) -> str:
    """A name that fits into the chart; the end stays, which tells the engines of one bundle apart."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 20]}…{name[-19:]}"


def _svg(title: str, height: float, drawn: Sequence[str], width: float = _WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(drawn)}</svg>'
    )


def _frame(
    across: Scale | None,
    up: Scale,
    height: float,
    x_label: str,
    *,
    width: float = _WIDTH,
    bottom: float = _BOTTOM,
    ticks: int = 5,
) -> str:
    """Grid lines, the numbers at the axes, and the name of the x axis."""
    left, right = (across.start, across.end) if across else (_LEFT, width - _RIGHT)
    drawn = []
    for tick in up.ticks(5):
        y = up(tick)
        drawn.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(
            f'<text class="tick" x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{format_number(tick, 2)}</text>'
        )
    for tick in across.ticks(ticks) if across else []:
        drawn.append(f'<text class="tick" x="{across(tick):.1f}" y="{height - bottom + 15:.1f}" '  # type: ignore[misc]
                     f'text-anchor="middle">{format_number(tick)}</text>')  # fmt: skip
    drawn.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{up.start:.1f}" y2="{up.start:.1f}"/>')
    if x_label:
        drawn.append(f'<text class="label" x="{0.5 * (left + right):.1f}" y="{height - 4:.1f}" text-anchor="middle">'
                     f"{escape(x_label)}</text>")  # fmt: skip
    return "".join(drawn)


def _runs(x: Sequence[float], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """The unbroken parts of a line."""
    found: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(x, values, strict=True):
        if value is None or not math.isfinite(value) or value <= 0:
            found.append([])
        else:
            found[-1].append((at, value))
    return [run for run in found if run]


def _steps(across: Scale, up: Scale, edges: Sequence[float], values: Sequence[float], *, closed: bool) -> str:
    """The outline of a histogram as an SVG path."""
    path = [f"M{across(edges[0]):.1f} {up(0.0):.1f}"]
    for index, value in enumerate(values):
        path.append(f"V{up(value):.1f}H{across(edges[index + 1]):.1f}")
    path.append(f"V{up(0.0):.1f}")
    return "".join(path) + ("Z" if closed else "")


def _free_place(
    x: float,
    y: float,
    width: float,
    taken: list[tuple[float, float, float, float]],
    sides: tuple[float, float],
    bottom: float,
) -> tuple[float, float]:
    """A place for a name beside a point that covers nothing placed before; `taken` grows by it."""
    places = [
        (x + aside if aside > 0 else x + aside - width, y + 4 + down)
        for down in (0, -17, 17, -31, 31, -45, 45, -59, 59, -73, 73, -87, 87)
        for aside in (12, -12)
    ]
    places += [(x - 0.5 * width, y + 4 + down) for down in (-17, 17, -31, 31, -45, 45)]
    best = places[0]
    for left, base in places:
        box = (left, base - 10, left + width, base + 3)
        inside = sides[0] <= box[0] and box[2] <= sides[1] and box[1] >= _TOP and box[3] <= bottom
        if inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
        ):
            best = (left, base)
            break
    taken.append((best[0], best[1] - 10, best[0] + width, best[1] + 3))
    return best
