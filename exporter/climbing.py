"""Chains that go up in energy where they should go down: their steps are too large, and they may never say so with a NaN."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from ..calibration.temperature import final_temperature
from ..runtime.config import SamplerConfig

__all__ = ["warn_of_climbing"]

_LOG = logging.getLogger("ebm_export")

_ROOM = 10.0
"""Times what a temperature lifts a chain by from the bottom of a bowl, T / 2 for each number of its state. Steps of 95 % of those that
a bowl bears lift it by that."""
_ROUNDING = 1e-3


def warn_of_climbing(golden: Mapping[str, np.ndarray], config: SamplerConfig) -> None:
    """Says so where most of a model's own chains end higher than they began, by more than their temperature explains.

    Args:
        golden: `energy` [G, N] at stages from the start to the end, and `x` [G, N, *S].
        config: the sampler's settings.
    """
    start, end = golden["energy"][0], golden["energy"][-1]
    size = golden["x"][0, 0].size
    explained = _ROOM * size * final_temperature(config) / 2 + _ROUNDING * (np.abs(start) + np.abs(end))
    climbing = end - start > explained
    if climbing.mean() <= 0.5:
        return
    _LOG.warning(
        "the energy of %d of %d chains went up, in the median from %.3g to %.3g, which no temperature of theirs explains: steps are "
        "too large, and samples may be nonsense in every precision; try a smaller step_size (--step-size), or a grad_clip (--grad-clip)",
        climbing.sum(),
        climbing.size,
        np.median(start),
        np.median(end),
    )
