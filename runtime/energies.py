"""Energies of many states, whose gradients nobody wants: these would take as much memory as the states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .ebm import Ebm
from .fitting_batch import largest_call

__all__ = ["energies_of"]


def energies_of(ebm: Ebm, x: np.ndarray, cond: Mapping[str, np.ndarray], *, max_batch: int | None = None) -> np.ndarray:
    """Returns the energies that `Ebm.score` gives, part by part, so that there are never gradients of more than one part.

    Args:
        ebm: the energy.
        x: [B, *S].
        cond: conditioning arrays by name, each with B rows, or 1 that all share.
        max_batch: most states in one engine call, where that is fewer than the Ebm's own.

    Returns:
        [B] float32.
    """
    calls = max(1, largest_call(x.shape[1:]) // ebm.fitting)  # whole ones, whose sizes are those of `score`
    step = max_batch or calls * ebm.fitting
    energies = np.empty(len(x), dtype=np.float32)
    for first in range(0, len(x), step):
        part = slice(first, first + step)
        own = {name: array if len(array) == 1 else array[part] for name, array in cond.items()}
        energies[part] = ebm.score(x[part], cond=own)[0]
    return energies
