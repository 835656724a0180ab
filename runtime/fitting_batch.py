"""How many chains go into one engine call where there are many to run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .manifest import ModelSpec

__all__ = ["fitting_batch", "largest_call"]

_STATES = 2**18
"""Numbers of x in one call at most: 1 MiB of float32. A network of 64 channels then holds 64 MiB for each activation that it keeps for
the gradient."""
_ACTIVATIONS = 2**17
"""Numbers of the widest activation that a core works at: half a MiB, of which its cache holds a few."""
_FEWEST = 8
"""Chains that a call has where one sample is wider than that: convolutions gain nothing from fewer."""


def largest_call(shape: Sequence[int]) -> int:
    """Returns the most samples of a shape S that a call is given unless its caller says otherwise."""
    return max(1, _STATES // math.prod(shape))


def fitting_batch(model: ModelSpec, cores: int = 1) -> int:
    """Returns the number of samples for one call on a CPU.

    A network of pairs of particles, or of tokens of attention, has activations far wider than x. Of one with 16 particles a sample took 326 us in
    a batch of 4, 361 in one of 8, 962 in one of 32 and 1250 in one of 256 (OpenVINO in FP32, two cores). The number follows from the graph
    and not from a measurement, since results may change with it in their last place: the same call runs the same chains again.

    Args:
        model: the energy; of one whose `widest` is not known, x alone counts.
        cores: that share a call.
    """
    most = largest_call(model.x.shape)
    if not model.widest:
        return most
    return max(1, min(most, max(_FEWEST, cores * _ACTIVATIONS // model.widest)))
