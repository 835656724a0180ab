"""How often each engine draws each mode of FP32's samples."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ..comparison import Comparison
from .charts import Bar, Line, bars
from .legend import legend
from .pictures import image_sheet, look_of
from .samples import value_range
from .words import percent

__all__ = ["shares_of_modes"]


def shares_of_modes(comparison: Comparison, css: dict[str, str]) -> dict[str, Any] | None:
    """Returns a chart of the shares, pictures of the modes, a table of the rare ones and those that were lost; None where no modes were told apart."""
    found = comparison.modes
    if found is None:
        return None
    shown = [engine for engine in comparison.candidates if engine.name in found.share]
    # A class has the number that its network gives it.
    word, words, several, first = (
        ("class", "classes", "classes", 0) if found.classes else ("mode", "modes", "clusters", 1)
    )
    count = len(found.reference)
    # Clusters are numbered by their size, classes by their network.
    x_label = "class" if found.classes else "mode, the largest first"
    groups = [Bar(str(mode + first), found.reference[mode], mode in found.rare) for mode in found.shown]
    series = [
        Line(engine.name, css[engine.name], [found.share[engine.name][mode] for mode in found.shown])
        for engine in shown
    ]
    pictures = []
    if comparison.mode_pictures is not None and look_of(comparison.mode_pictures.shape[1:]) == "images":
        ends = value_range(comparison, comparison.pictures[comparison.reference])
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
        f"a rare {word}, one with less than half of an equal share.",
        "word": word,
        "words": words,
        "legend": legend(shown, css),
        "chart": Markup(
            bars(f"shares of the {words}", groups, series, word=word, x_label=x_label, y_label="share of the samples")
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
        "no_rows": f"No {word} holds less than half of an equal share of FP32's samples."
        if not found.rare
        else f"FP32 has no sample of the {len(found.rare)} that hold less than half of an equal share.",
        "lost": lost or [f"No engine draws a {word} significantly less often than FP32 does."],
    }


def _modes_said(modes: tuple[int, ...], count: int, classes: bool) -> str:
    one, several, first = ("class", "classes", 0) if classes else ("mode", "modes", 1)
    if len(modes) > 6:
        return f"{len(modes)} of the {count} {several}"
    return f"{several if len(modes) > 1 else one} {', '.join(str(mode + first) for mode in modes)}"
