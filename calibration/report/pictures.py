"""Samples as pictures."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

__all__ = ["Look", "heat_strips", "image_sheet", "look_of"]

Look = str
"""How samples of a shape are shown: "images", "points", "numbers" (a histogram) or "strips"."""

_FIRST_DIMS = 64
"""Columns of a heat strip: what a phone still shows at five pixels each."""


def look_of(shape: tuple[int, ...]) -> Look:
    """Returns how samples of a shape are shown.

    1. [C, H, W] with C of 1 or 3 and sides from 4: images.
    2. Two numbers: points. One number: a histogram.
    3. Anything else: strips of colour, one row per sample.
    """
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4:
        return "images"
    return {1: "numbers", 2: "points"}.get(math.prod(shape), "strips")


def image_sheet(samples: np.ndarray, low: float, high: float, columns: int = 8) -> str:
    """Tiles images into one PNG, one image pixel per pixel and a gap of one; the page enlarges it.

    Args:
        samples: [N, C, H, W] with C of 1 or 3.
        low: value that becomes black.
        high: value that becomes white.
        columns: images in a row.

    Returns:
        A data URI.
    """
    count, channels, height, width = samples.shape
    rows = math.ceil(count / columns)
    levels = np.clip((samples.astype(np.float64) - low) / (high - low), 0, 1)
    levels = np.nan_to_num(np.round(levels * 255)).astype(np.uint8)
    # Gaps are transparent, so that the sheet looks right on a light page and on a dark one.
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels + 1), np.uint8)
    for index, image in enumerate(levels):
        top, left = (height + 1) * (index // columns), (width + 1) * (index % columns)
        sheet[top : top + height, left : left + width, :channels] = image.transpose(1, 2, 0)
        sheet[top : top + height, left : left + width, channels] = 255
    return _png(Image.fromarray(sheet, "LA" if channels == 1 else "RGBA"))


def heat_strips(samples: np.ndarray, low: float, high: float) -> str:
    """Draws one row of colours per sample, one column per number: blue below the middle, red above, white at it.

    Args:
        samples: [N, *S]; the first 64 numbers of each are drawn.
        low: value that becomes the darkest blue.
        high: value that becomes the darkest red.

    Returns:
        A data URI.
    """
    flat = samples.reshape(len(samples), -1)[:, :_FIRST_DIMS].astype(np.float64)
    level = np.nan_to_num(np.clip(2 * (flat - low) / (high - low) - 1, -1, 1))[..., None]  # [N, D, 1] in [-1, 1]
    middle, cold, warm = (np.array(rgb) for rgb in ((244, 244, 240), (33, 102, 172), (178, 50, 43)))
    colours = middle + np.where(level < 0, -level * (cold - middle), level * (warm - middle))
    return _png(Image.fromarray(np.round(colours).astype(np.uint8), "RGB"))


def _png(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
