"""What a bundle knows of its chains' gradient scales; `gradient_scale.py` says what these are for."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HIGHEST_SCALE", "LOWEST_SCALE", "NOTHING_KNOWN", "KnownScales"]

# Powers of two far inside float32's range (2**-126 to 2**127), so that dividing by the scale stays finite.
LOWEST_SCALE = 2.0**-100
HIGHEST_SCALE = 2.0**100


class KnownScales(NamedTuple):
    """Of one energy, whatever the engine.

    Attributes:
        usual: with which the search for a chain's first scale begins: the nearer, the fewer calls it takes.
        highest: the running scale stays at or below it.
    """

    usual: float = 1.0
    highest: float = HIGHEST_SCALE


NOTHING_KNOWN = KnownScales()
"""Of an energy whose chains nobody looked at."""
