"""How samples are spread over the modes of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .gate_metrics import LOSS_IS_SURE
from .metrics.modes import find_modes, mode_masses
from .sample_set import SampleSet

__all__ = ["ModeShares", "mode_shares"]

_ELSEWHERE = 1e300
"""Added to the distance of a sample of another mode: it is shown only for a mode that the reference has no sample of."""


@dataclass(frozen=True)
class ModeShares:
    """Clusters of all samples, those with most of the reference first, and how many samples of every set each has.

    Attributes:
        reference: [K] share of the reference's samples in each mode.
        share: [K] share of each engine's samples, by the engine's name.
        loss_p_value: [K] p-value that the mode has less mass there than in the reference, by the engine's name.
        rare: numbers of the modes that hold less than half of an equal share.
        lost: numbers of the modes that an engine surely draws too seldom, by the engine's name: the level is the gate's.
    """

    reference: tuple[float, ...]
    share: dict[str, tuple[float, ...]]
    loss_p_value: dict[str, tuple[float, ...]]
    rare: tuple[int, ...]
    lost: dict[str, tuple[int, ...]]


def mode_shares(
    reference: SampleSet, sets: Mapping[str, SampleSet], *, seed: int = 0
) -> tuple[ModeShares, np.ndarray] | None:
    """Finds the modes of all samples together and counts every set in them.

    Args:
        reference: FP32's samples.
        sets: the engines' samples by name.
        seed: of the clustering.

    Returns:
        The shares, and [K, *S] the reference's sample nearest to the middle of each mode; None where the reference has
        one mode alone.
    """
    rows = _rows(reference)
    # Fitted to all: clusters of FP32's own samples alone would sit closer to those than to any new ones.
    modes = find_modes(np.concatenate([rows, *(_rows(samples) for samples in sets.values())]), seed=seed)
    count = len(modes.centres)
    if count < 2:
        return None
    labels = modes.assign(rows)
    masses = {
        name: mode_masses(labels, modes.assign(_rows(samples)), count, seed=seed) for name, samples in sets.items()
    }
    share = np.bincount(labels, minlength=count) / len(labels)
    middles = [
        int(np.argmin(np.square(rows - centre).sum(axis=1) + np.where(labels == mode, 0.0, _ELSEWHERE)))
        for mode, centre in enumerate(modes.centres)
    ]
    found = ModeShares(
        reference=tuple(share.tolist()),
        share={name: tuple(own.candidate.tolist()) for name, own in masses.items()},
        loss_p_value={name: tuple(own.loss_p_value.tolist()) for name, own in masses.items()},
        rare=tuple(np.flatnonzero(share < 0.5 / count).tolist()),
        lost={
            name: tuple(np.flatnonzero(own.loss_p_value < LOSS_IS_SURE / count).tolist())
            for name, own in masses.items()
        },
    )
    return found, reference.x[middles]


def _rows(samples: SampleSet) -> np.ndarray:
    """What the samples are compared by, [N, D]."""
    return samples.x.reshape(len(samples), -1) if samples.features is None else samples.features
