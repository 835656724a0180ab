"""At which conditioning inputs low precisions are calibrated, and at which they are judged."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch

from ..runtime.distinct_rows import distinct_rows
from .energy import Energy
from .golden import CHAINS, all_conditions, distinct_observations, fresh_conditions

__all__ = ["ENOUGH", "Conditions", "RealData", "split_conditions", "stand_for_use", "warn_of_few", "warn_of_unpaired"]

ENOUGH = 16
"""Observations from which on those that an engine is judged at are not those that it was calibrated at."""

_LOG = logging.getLogger("ebm_export")

_SIDES, _CALIBRATION = 2, 0
"""Different observations go to the calibration and to the judgement in turns; which is the first."""


class RealData(NamedTuple):
    """Real data to calibrate on.

    Attributes:
        x: states [D, *S], as they were given: they may be a file that is mapped.
        rows: [P] int64, numbers of those that the calibration sees; all where None.
        conditions: by graph name the condition of each of these, [P, ...]; none where nobody said which.
    """

    x: np.ndarray
    conditions: dict[str, np.ndarray]
    rows: np.ndarray | None = None


class Conditions(NamedTuple):
    """Rows of the conditioning inputs by graph name, [R, ...]; chain i takes row i modulo R.

    Attributes:
        calibration: where ranges and weights come from.
        judged: where samples are drawn and gradients compared.
        stand_for_use: whether a verdict at these holds in use: they are real, and others than those of the calibration or all there are.
        data: real data to calibrate on, where there is some.
    """

    calibration: dict[str, np.ndarray]
    judged: dict[str, np.ndarray]
    stand_for_use: bool
    data: RealData | None = None


def split_conditions(energy: Energy, data: np.ndarray | None = None) -> Conditions:
    """Takes a model's observations in turns for the one and the other; few serve for both, with others like them.

    Many are shuffled, so that the first of them, where there are fewer chains, are from all over. Labels serve for both: they come
    again in use.

    Args:
        energy: the model.
        data: real data, [M, *S]. Where as many observations were given, row i of the one goes with row i of the other, as an image does
            with its label; a single one goes with all; the calibration sees the pairs of its own observations alone.
    """
    count = len(distinct_observations(energy.observations))
    rows = fresh_conditions(energy, max(count, CHAINS), 0)
    if not _are_shared_out(energy):
        if count >= ENOUGH:
            order = np.random.default_rng(0).permutation(count)
            rows = {name: array[order] for name, array in rows.items()}
        return Conditions(rows, rows, stand_for_use(energy), _real(energy, data))
    orders = (np.random.default_rng(first).permutation(np.arange(first, count, _SIDES)) for first in (_CALIBRATION, 1))
    calibration, judged = ({name: array[order] for name, array in rows.items()} for order in orders)
    return Conditions(calibration, judged, stand_for_use(energy), _real(energy, data))


def stand_for_use(energy: Energy) -> bool:
    """Whether a verdict at a model's observations holds in use: there are many, or they are labels without a gap, which may be all."""
    count = len(distinct_observations(energy.observations))
    return count >= ENOUGH or (
        _are_labels(energy) and all(_without_a_gap(rows) for rows in energy.observations.values())
    )


def warn_of_few(energy: Energy) -> None:
    """Says where a verdict holds, if what is known of the conditioning inputs cannot stand for those of use."""
    count = len(distinct_observations(energy.observations))
    if energy.observations and not stand_for_use(energy):
        _LOG.warning(
            "samples are judged at %s %s%s: give rows as they come in use, %d or more, for a verdict that holds there "
            "(cond={name: rows}, on the command line --cond NAME=FILE.npy)",
            "one row of" if count == 1 else f"{count} rows of",
            ", ".join(energy.observations),
            " and noisy copies" if count < CHAINS else "",
            ENOUGH,
        )


def warn_of_unpaired(energy: Energy, conditions: Conditions) -> None:
    """Says that nobody knows which condition real data belongs to, if that is so."""
    data = conditions.data
    if energy.observations and data is not None and not data.conditions:
        _LOG.warning(
            "calibrating on %d rows of data under %d rows of %s in turns, whichever belongs to which: give as many rows of both, row i of "
            "the one for row i of the other (cond={name: rows}, on the command line --cond NAME=FILE.npy)",
            len(data.x),
            energy.given_rows,
            ", ".join(energy.observations),
        )


def _real(energy: Energy, data: np.ndarray | None) -> RealData | None:
    if data is None:
        return None
    if energy.given_rows not in (1, len(data)):
        return RealData(data, {})
    given = np.arange(len(data)) % energy.given_rows  # those after them repeat these, and belong to no data
    pairs = {name: rows[given] for name, rows in all_conditions(energy).items()}
    if _are_shared_out(energy):
        ours = distinct_rows(pairs.values(), len(data))[1] % _SIDES == _CALIBRATION
        return RealData(data, {name: rows[ours] for name, rows in pairs.items()}, np.flatnonzero(ours))
    return RealData(data, pairs)


def _are_shared_out(energy: Energy) -> bool:
    """Whether a model is judged at other observations than it is calibrated at."""
    return len(distinct_observations(energy.observations)) >= ENOUGH and not _are_labels(energy)


def _without_a_gap(labels: torch.Tensor) -> bool:
    values = torch.unique(labels.long())
    return len(values) > 1 and len(values) == int(values[-1] - values[0]) + 1


def _are_labels(energy: Energy) -> bool:
    """Whether the condition of a sample is whole numbers, one of each name: a class, a mode."""
    given = energy.observations.values()
    return bool(given) and all(not rows.is_floating_point() and rows[0].numel() == 1 for rows in given)
