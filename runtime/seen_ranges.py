"""Conditioning inputs whose numbers are of another size than any that the export saw."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import numpy as np

from .manifest import TensorSpec

__all__ = ["SeenRanges", "largest_size"]

_LOG = logging.getLogger("ebm_export")

_FACTOR = 10
"""Times the largest number that the export saw, from which on a warning is due. What is forgotten multiplies by more: pixels that are not
divided by 255, degrees for radians (57), millimetres for metres (1000); pixels for normalised ones, which reach 2.6, are 97 times as large. A
new observation of a kind that was seen is a few times as large at most. It is compared with the size, and not with the distance between
the smallest and the largest number: that says nothing where one number was seen, or voltages from 12.0 to 12.1."""

_LOOKED_AT = 2**18
"""Numbers of an input that are looked at, the first: an image of 3 x 224 x 224 and more, in 40 us. An input that is not scaled is so
everywhere, and a deadline does not wait for the rest of a batch of images."""


class SeenRanges:
    """Says once for each conditioning input that its numbers are far larger than any that the export saw, or negative where all were above 0.

    A noise level, a mass or a length is positive, and the model may take its logarithm. Nothing is said of inputs whose numbers the export made up, or which were all 0.

    Args:
        specs: the model's conditioning inputs.
    """

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self._silent = {spec.name: spec for spec in specs if spec.range is not None and any(spec.range)}

    def warn_of(self, conditions: Mapping[str, np.ndarray]) -> None:
        """Looks at the conditioning inputs of a call: float32 by graph name, [B, ...] or [1, ...], C-contiguous."""
        for name, spec in list(self._silent.items()):
            array = conditions[name].reshape(-1)[:_LOOKED_AT]
            found = float(array.min()), float(array.max())
            seen = spec.range or (0.0, 0.0)
            strange = largest_size(found) > _FACTOR * largest_size(seen) or found[0] < 0 < seen[0]
            # Of two threads that found this, one says it.
            if strange and self._silent.pop(name, None) is not None:
                _LOG.warning(
                    "%s: got numbers from %.3g to %.3g, and the export saw %.3g to %.3g: the answers may be worth nothing; scale them as in "
                    "training, or, if they are, export the model again with rows as they come in use (--cond %s=FILE.npy)",
                    spec.called,
                    *found,
                    *seen,
                    spec.called,
                )


def largest_size(ends: tuple[float, float] | None) -> float:
    """The largest absolute value from the smallest to the largest number. Negative infinity, which masks are made of, has none; nor has None."""
    return max((abs(end) for end in ends or () if end != -np.inf), default=0.0)
