"""Draws the error of the gradient along the chain from what benchmarks/quantizers.py found.

python benchmarks/quantizers_chart.py quantizers/quantizers.json docs/images/score-error.png

Steps run along the bottom; the error is rms(q - g) / rms(g) over the states of a stage.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

LINES = {
    "int8 openvino": ("ebm-export INT8", (0, 90, 160), 4),
    "nncf noise plain": ("NNCF, noise", (230, 150, 110), 2),
    "nncf trajectory plain": ("NNCF, trajectory", (200, 60, 20), 2),
    "onnxruntime noise plain": ("onnxruntime, noise", (190, 160, 215), 2),
    "onnxruntime trajectory plain": ("onnxruntime, trajectory", (130, 80, 160), 2),
}
"""Engines that are drawn if they are there, with what they are called; the first is ours, the others have plain gradients."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 400, 64, 250, 40, 44


def main() -> None:
    """Draws and writes the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = {row["engine"]: row for row in json.loads(options.found.read_text(encoding="utf-8"))["rows"]}
    # A gradient that is not finite is null in the file.
    curves = {
        name: [(stage["step"], stage["relative_error"]) for stage in rows[name]["stages"] if stage["relative_error"]]
        for name in LINES
        if name in rows and rows[name].get("stages")
    }
    errors = [error for curve in curves.values() for _, error in curve]
    low, high = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))
    last = max(step for curve in curves.values() for step, _ in curve)

    def place(step: float, error: float) -> tuple[float, float]:
        across = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - math.log10(error)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, small = ImageDraw.Draw(page), ImageFont.load_default(14)
    pen.text((LEFT, 10), "Error of the gradient relative to FP32's", fill=(60, 60, 60), font=ImageFont.load_default(16))
    for power in range(low, high + 1):
        x, y = place(0, 10.0**power)
        pen.line([(x, y), (WIDTH - RIGHT, y)], fill=(220, 220, 220))
        pen.text((x - 8, y), f"{10.0**power:.0%}" if power >= -2 else f"{10.0**power:.1%}", "black", small, "rm")
    for step in (0, last // 3, 2 * last // 3, last):
        x, y = place(step, 10.0**low)
        pen.text((x, y + 8), f"step {step}" if step == 0 else str(step), "black", small, "mt")
    for index, (name, curve) in enumerate(curves.items()):
        label, colour, width = LINES[name]
        pen.line([place(*point) for point in curve], fill=colour, width=width, joint="curve")
        y = TOP + 12 + 26 * index
        pen.line([(WIDTH - RIGHT + 14, y), (WIDTH - RIGHT + 38, y)], fill=colour, width=width)
        pen.text((WIDTH - RIGHT + 44, y), label, "black", small, "lm")
    page.quantize(64).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
