"""The samples themselves, as each engine draws them with the same seed and the same noise."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup

from ..comparison import Comparison, EngineResult
from .charts import Line, histogram, points
from .pictures import heat_strips, image_sheet, look_of
from .scale import format_number
from .words import percent, verdict

__all__ = ["samples_side_by_side", "value_range"]


def samples_side_by_side(comparison: Comparison, css: dict[str, str]) -> dict[str, Any]:
    """Returns a picture of each engine's samples with its caption, and the text that says how to read them."""
    reference = comparison.pictures[comparison.reference]
    look = look_of(reference.shape[1:])
    low, high = value_range(comparison, reference)
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


def value_range(comparison: Comparison, reference: np.ndarray) -> tuple[float, float]:
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
