"""At which conditioning inputs low precisions are calibrated, and at which they are judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .energy import Energy
from .golden import CHAINS, distinct_observations, fresh_conditions

__all__ = ["ENOUGH", "Conditions", "split_conditions"]

ENOUGH = 16
"""Observations from which on those that an engine is judged at are not those that it was calibrated at."""


class Conditions(NamedTuple):
    """Rows of the conditioning inputs by graph name, [R, ...]; chain i takes row i modulo R.

    Attributes:
        calibration: where ranges and weights come from.
        judged: where samples are drawn and gradients compared.
    """

    calibration: dict[str, np.ndarray]
    judged: dict[str, np.ndarray]

    @property
    def held_out(self) -> bool:
        """Whether engines are judged at conditions that they were not calibrated at."""
        return self.judged is not self.calibration


def split_conditions(energy: Energy) -> Conditions:
    """Takes a model's observations in turns for the one and the other; few serve for both, with others like them.

    Many are shuffled, so that the first of them, where there are fewer chains, are from all over.
    """
    count = len(distinct_observations(energy.observations))
    rows = fresh_conditions(energy, max(count, CHAINS), 0)
    if count < ENOUGH:
        return Conditions(rows, rows)
    halves = []
    for first in (0, 1):
        order = np.random.default_rng(first).permutation(np.arange(first, count, 2))
        halves.append({name: array[order] for name, array in rows.items()})
    return Conditions(*halves)
