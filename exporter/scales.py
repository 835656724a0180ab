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


def scales_of(golden: Mapping[str, np.ndarray]) -> KnownScales:
    """What golden states say of the gradient scale.

    The usual one brings half of the gradients at the start of the trajectory to a size of one or less, or those of the first stage
    that has any. The highest is the largest that a chain reached, between the usual one and 2^10 times that, or 2^4 times where
    chains come to rest.

    Args:
        golden: of the arrays of golden.npz, `grad`, `grad_scale` and `rests`; those of a bundle say the same again.
    """
    stages = golden["grad"].astype(np.float64)
    sizes = np.sqrt(np.square(stages).reshape(*stages.shape[:2], -1).mean(axis=2))  # [G, N]
    known = [stage[np.isfinite(stage) & (stage > 0)] for stage in sizes]
    start = next((stage for stage in known if len(stage)), np.ones(1))
    usual = float(np.clip(1 / np.median(start), LOWEST_SCALE, HIGHEST_SCALE))
    growth = _GROWTH_TO_REST if golden["rests"] else _GROWTH
    highest = min(max(usual, float(golden["grad_scale"].max())), growth * usual, HIGHEST_SCALE)
    return KnownScales(usual, float(np.float32(highest)))
