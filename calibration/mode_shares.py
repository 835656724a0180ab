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
    """Modes of all samples and how many samples of every set each has: clusters, those with most of the reference first, or classes.

    Attributes:
        reference: [K] share of the reference's samples in each mode.
        share: [K] share of each engine's samples, by the engine's name.
        loss_p_value: [K] p-value that the mode has less mass there than in the reference, by the engine's name.
        rare: numbers of the modes that hold less than half of an equal share.
        lost: numbers of the modes that an engine surely draws too seldom, by the engine's name: the level is the gate's.
        classes: whether they are the classes of a classifier, by its numbers.
    """

    reference: tuple[float, ...]
    share: dict[str, tuple[float, ...]]
    loss_p_value: dict[str, tuple[float, ...]]
    rare: tuple[int, ...]
    lost: dict[str, tuple[int, ...]]
    classes: bool = False


def mode_shares(
    reference: SampleSet, sets: Mapping[str, SampleSet], *, seed: int = 0
) -> tuple[ModeShares, np.ndarray] | None:
    """Finds the modes of all samples together, or takes their labels where all have some, and counts every set in them.

    Args:
        reference: FP32's samples.
        sets: the engines' samples by name.
        seed: of the clustering.

    Returns:
        The shares, and [K, *S] the reference's sample nearest to the middle of each mode; None where there is one mode alone.
    """
    rows = _rows(reference)
    classes = all(samples.labels is not None for samples in (reference, *sets.values()))
    labels, others, centres = (_by_class if classes else _by_cluster)(reference, sets, seed)
    count = len(centres)
    if count < 2:
        return None
    masses = {name: mode_masses(labels, own, count, seed=seed) for name, own in others.items()}
    share = np.bincount(labels, minlength=count) / len(labels)
    middles = [
        int(np.argmin(np.square(rows - centre).sum(axis=1) + np.where(labels == mode, 0.0, _ELSEWHERE)))
        for mode, centre in enumerate(centres)
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
        classes=classes,
    )
    return found, reference.x[middles]


_Modes = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]
"""The reference's modes [N], those of the other sets by name, and the middle [K, D] of each mode."""


def _by_cluster(reference: SampleSet, sets: Mapping[str, SampleSet], seed: int) -> _Modes:
    # Fitted to all: clusters of FP32's own samples alone would sit closer to those than to any new ones.
    modes = find_modes(np.concatenate([_rows(samples) for samples in (reference, *sets.values())]), seed=seed)
    others = {name: modes.assign(_rows(samples)) for name, samples in sets.items()}
    return modes.assign(_rows(reference)), others, modes.centres


def _by_class(reference: SampleSet, sets: Mapping[str, SampleSet], seed: int) -> _Modes:
    """A class that nobody drew has the middle of all samples, and so any one is as near to it."""
    everyone = [reference, *sets.values()]
    rows = np.concatenate([_rows(samples) for samples in everyone])
    labels = np.concatenate([np.asarray(samples.labels) for samples in everyone])
    centres = np.stack(
        [
            rows[labels == mode].mean(axis=0) if (labels == mode).any() else rows.mean(axis=0)
            for mode in range(1 + labels.max())
        ]
    )
    return np.asarray(reference.labels), {name: np.asarray(own.labels) for name, own in sets.items()}, centres


def _rows(samples: SampleSet) -> np.ndarray:
    """What the samples are compared by, [N, D]."""
    return samples.x.reshape(len(samples), -1) if samples.features is None else samples.features
