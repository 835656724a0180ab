"""Draws FP32 beside INT8 under the same noise.

    python examples/digits/side_by_side.py digits.ebm digits-fp32-int8.png

The bundle holds both precisions. The same place shows the same chain: it begins at the same numbers and gets the same noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ebm_export.runtime import load

COLUMNS, ROWS, SCALE, GAP = 12, 8, 4, 24
CAPTION = 26


def tiled(samples: np.ndarray) -> Image.Image:
    """Tiles samples [N, 1, 8, 8] in [-1, 1] into one grid, dark strokes on white paper."""
    tiles = np.pad(samples[:, 0], ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    grid = tiles.reshape(ROWS, COLUMNS, 10, 10).swapaxes(1, 2).reshape(ROWS * 10, COLUMNS * 10)
    grey = np.round((1 - grid) * 127.5).clip(0, 255).astype(np.uint8) // 16 * 17  # 16 greys: a small file
    image = Image.fromarray(grey)
    return image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST)


def main() -> None:
    """Draws and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    grids = {}
    for precision in ("fp32", "int8"):
        with load(options.bundle, backend=options.backend, precision=precision) as ebm:
            grids[precision.upper()] = tiled(ebm.sample(COLUMNS * ROWS, seed=options.seed))
    width, height = next(iter(grids.values())).size
    page = Image.new("L", (2 * width + GAP, height + CAPTION), 255)
    pen = ImageDraw.Draw(page)
    for index, (name, grid) in enumerate(grids.items()):
        left = index * (width + GAP)
        pen.text((left + SCALE, 2), f"{name}, seed {options.seed}", fill=60, font=ImageFont.load_default(16))
        page.paste(grid, (left, CAPTION))
    page.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
