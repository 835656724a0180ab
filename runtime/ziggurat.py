"""The ziggurat that turns random bits into float32 normals, as numpy does.

Under the curve exp(-x^2 / 2) lie 256 strips of one area v. The lowest is the rectangle up to r and the tail beyond it; the
others end at x_255 = r > x_254 > .. > x_1 > 0 with

    exp(-x_i^2 / 2) = exp(-x_{i+1}^2 / 2) + v / x_{i+1}

(Marsaglia and Tsang, "The ziggurat method for generating random variables", J. Stat. Software 2000). r is where the
topmost strip meets the peak of the curve. numpy holds the same tables, which a test looks for inside numpy.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

__all__ = ["normals_of_words", "ziggurat_tables"]

_TAIL = 3.6541528853610088  # r for 256 strips
_PLACES = 2**23  # along a strip, numbered by the 23 upper bits of a word
_STRIP, _SIGN, _SHIFT = np.uint32(255), np.uint32(256), np.uint32(9)  # the other bits
_TO_SIGN = np.uint32(31 - 8)  # from there to the sign of a float32


def normals_of_words(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns each word into the normal that it is in 98.8 % of cases; in the others more words would have to be asked for.

    Args:
        words: any shape, uint32.

    Returns:
        Normals, float32, in the same shape; and where they are final, bool.
    """
    inside, widths = _inside_and_widths()
    strips = words & _STRIP
    places = words >> _SHIFT
    normals = places.astype(np.float32)
    normals *= widths.take(strips)
    signs = normals.view(np.uint32)
    signs |= (words & _SIGN) << _TO_SIGN
    return normals, places < inside.take(strips)


@cache
def _inside_and_widths() -> tuple[np.ndarray, np.ndarray]:
    tables = ziggurat_tables()
    return tables[:1024].view(np.uint32), tables[1024:2048].view(np.float32)


def ziggurat_tables() -> np.ndarray:
    """Returns the bytes of the `Tables` in noise.cuh: 256 unsigned, 256 float, 256 float.

    Returns:
        [3072] uint8.
    """
    area = _TAIL * _height(_TAIL) + math.sqrt(math.pi / 2) * math.erfc(_TAIL / math.sqrt(2))
    ends = [0.0] * 256
    ends[255] = _TAIL
    for strip in range(254, 0, -1):
        above = ends[strip + 1]
        ends[strip] = math.sqrt(-2 * math.log(area / above + _height(above)))
    lowest = area / _height(_TAIL)  # width of a rectangle with the area of the lowest strip and its height
    widths = np.array([lowest, *ends[1:]])
    # Share of a strip that lies below the next one up; in the topmost none does.
    shares = np.array([_TAIL / lowest, 0.0, *(ends[strip - 1] / ends[strip] for strip in range(2, 256))])
    inside = np.rint(shares * _PLACES).astype(np.uint32)
    heights = np.array([_height(end) for end in ends]).astype(np.float32)
    return np.concatenate([table.view(np.uint8) for table in (inside, (widths / _PLACES).astype(np.float32), heights)])


def _height(x: float) -> float:
    return math.exp(-x * x / 2)
