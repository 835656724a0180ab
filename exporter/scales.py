"""The gradient scales of a model's own chains; `runtime/gradient_scale.py` says what they are for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..runtime.known_scales import HIGHEST_SCALE, LOWEST_SCALE, KnownScales

__all__ = ["scales_of"]

_GROWTH = 2.0**10
"""How far the scale may grow. Where inner activations shrink as the gradient does, FP16 still has 14 bits below; where they do not,
it has six above."""

_GROWTH_TO_REST = 2.0**4
"""The same along chains that come to rest, whose gradients have no least size. Grids of INT8 reach from the first to the last, so
what does not shrink begins at a sixteenth of them."""


def scales_of(golden: Mapping[str, np.ndarray], *, rests: bool = False) -> KnownScales:
    """What golden states say of the gradient scale.

    The usual one brings half of the gradients at the start of the trajectory to a size of one or less. The highest is
    what half of the chains reach, for the few that reach more are not what INT8 ranges are made for, and between the usual
    one and 2^10 times that, or 2^4 times where chains come to rest.

    Args:
        golden: of the arrays of golden.npz, `grad` and `grad_scale`; those of a bundle say the same again.
        rests: whether chains come to rest.
    """
    start = golden["grad"][0].astype(np.float64)
    sizes = np.sqrt(np.square(start).reshape(len(start), -1).mean(axis=1))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    usual = float(np.clip(1 / np.median(sizes), LOWEST_SCALE, HIGHEST_SCALE)) if len(sizes) else 1.0
    reached = float(np.median(golden["grad_scale"].max(axis=0)))
    growth = _GROWTH_TO_REST if rests else _GROWTH
    highest = min(max(usual, reached), growth * usual, HIGHEST_SCALE)
    return KnownScales(usual, float(np.float32(highest)))
