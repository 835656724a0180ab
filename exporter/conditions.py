"""At which conditioning inputs low precisions are calibrated, and at which they are judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .energy import Energy
from .golden import CHAINS, distinct_observations, fresh_conditions

__all__ = ["ENOUGH", "Conditions", "split_conditions", "stand_for_use"]

ENOUGH = 16
"""Observations from which on those that an engine is judged at are not those that it was calibrated at."""


class Conditions(NamedTuple):
    """Rows of the conditioning inputs by graph name, [R, ...]; chain i takes row i modulo R.

    Attributes:
        calibration: where ranges and weights come from.
        judged: where samples are drawn and gradients compared.
        stand_for_use: whether a verdict at these holds in use: they are real, and others than those of the calibration or all there are.
    """

    calibration: dict[str, np.ndarray]
    judged: dict[str, np.ndarray]
    stand_for_use: bool


def split_conditions(energy: Energy) -> Conditions:
    """Takes a model's observations in turns for the one and the other; few serve for both, with others like them.

    Many are shuffled, so that the first of them, where there are fewer chains, are from all over. Labels serve for both: they come
    again in use.
    """
    count = len(distinct_observations(energy.observations))
    rows = fresh_conditions(energy, max(count, CHAINS), 0)
    if count < ENOUGH or _are_labels(energy):
        if count >= ENOUGH:
            order = np.random.default_rng(0).permutation(count)
            rows = {name: array[order] for name, array in rows.items()}
        return Conditions(rows, rows, stand_for_use(energy))
    orders = (np.random.default_rng(first).permutation(np.arange(first, count, 2)) for first in (0, 1))
    calibration, judged = ({name: array[order] for name, array in rows.items()} for order in orders)
    return Conditions(calibration, judged, stand_for_use(energy))


def stand_for_use(energy: Energy) -> bool:
    """Whether a verdict at a model's observations holds in use: there are many, or they are labels without a gap, which may be all."""
    count = len(distinct_observations(energy.observations))
    return count >= ENOUGH or (
        _are_labels(energy) and all(_without_a_gap(rows) for rows in energy.observations.values())
    )


def _without_a_gap(labels: torch.Tensor) -> bool:
    values = torch.unique(labels.long())
    return len(values) > 1 and len(values) == int(values[-1] - values[0]) + 1


def _are_labels(energy: Energy) -> bool:
    """Whether the condition of a sample is whole numbers, one of each name: a class, a mode."""
    given = energy.observations.values()
    return bool(given) and all(not rows.is_floating_point() and rows[0].numel() == 1 for rows in given)
