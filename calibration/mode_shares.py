"""How samples are spread over the modes of the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from .gate import diverged_chains
from .gate_metrics import LOSS_IS_SURE
from .metrics.modes import find_modes, mode_masses
from .sample_set import SampleSet

__all__ = ["ModeShares", "mode_shares"]

_SHOWN = 48
"""Modes that are shown where there are more: what a chart of bars and a page of pictures have room for."""


@dataclass(frozen=True)
class ModeShares:
    """Modes of all samples and how many samples of every set each has: clusters, the one with most samples first, or classes.

    Attributes:
        reference: [K] share of the reference's samples in each mode.
        share: [K] share of each engine's samples, by the engine's name.
        loss_p_value: [K] p-value that the mode has less mass there than in the reference, by the engine's name.
        rare: numbers of the modes that hold less than half of an equal share.
        lost: numbers of the modes that an engine surely draws too seldom, by the engine's name: the level is the gate's.
        shown: numbers of the modes that a report shows: all, or 48 of the largest, the rare and the lost ones.
        classes: whether they are the classes of a classifier, by its numbers.
    """

    reference: tuple[float, ...]
    share: dict[str, tuple[float, ...]]
    loss_p_value: dict[str, tuple[float, ...]]
    rare: tuple[int, ...]
    lost: dict[str, tuple[int, ...]]
    shown: tuple[int, ...]
    classes: bool = False


def mode_shares(
    reference: SampleSet, sets: Mapping[str, SampleSet], *, seed: int = 0
) -> tuple[ModeShares, np.ndarray] | None:
    """Finds the modes of all samples together, or takes their labels where all have some, and counts every set in them.

    Args:
        reference: FP32's samples.
        sets: the engines' samples by name. Those with chains that diverged, which the gate does not look at either, are in no share.
        seed: of the clustering.

    Returns:
        The shares, and the reference's sample nearest to the middle of each mode that is shown, [len(shown), *S]; None where there is
        one mode alone.
    """
    sets = {name: samples for name, samples in sets.items() if not diverged_chains(reference, samples)}
    classes = all(samples.labels is not None for samples in (reference, *sets.values()))
    labels, others, count, middle = (_by_class if classes else _by_cluster)(reference, sets, seed)
    if count < 2:
        return None
    masses = {name: mode_masses(labels, own, count, seed=seed) for name, own in others.items()}
    share = np.bincount(labels, minlength=count) / len(labels)
    p_value = np.min([np.ones(count), *(own.loss_p_value for own in masses.values())], axis=0)
    found = ModeShares(
        reference=tuple(share.tolist()),
        share={name: tuple(own.candidate.tolist()) for name, own in masses.items()},
        loss_p_value={name: tuple(own.loss_p_value.tolist()) for name, own in masses.items()},
        rare=tuple(np.flatnonzero(share < 0.5 / count).tolist()),
        lost={
            name: tuple(np.flatnonzero(own.loss_p_value < LOSS_IS_SURE / count).tolist())
            for name, own in masses.items()
        },
        shown=_shown(share, p_value),
        classes=classes,
    )
    rows = _rows(reference)
    return found, reference.x[[_nearest(rows, labels, mode, middle(mode)) for mode in found.shown]]


def _shown(share: np.ndarray, p_value: np.ndarray) -> tuple[int, ...]:
    """All modes, or in turns the surest lost, the largest and the largest rare one, of those that the reference has."""
    count = len(share)
    if count <= _SHOWN:
        return tuple(range(count))
    largest = np.argsort(-share, kind="stable")
    largest = largest[share[largest] > 0]
    lost = np.argsort(p_value, kind="stable")
    kinds = (lost[p_value[lost] < LOSS_IS_SURE / count], largest, largest[share[largest] < 0.5 / count])
    turns = dict.fromkeys(int(mode) for turn in zip_longest(*kinds) for mode in turn if mode is not None)
    return tuple(sorted(list(turns)[:_SHOWN]))


def _nearest(rows: np.ndarray, labels: np.ndarray, mode: int, middle: np.ndarray) -> int:
    """Number of the sample of a mode that is nearest to its middle; of all samples, where the mode has none."""
    own = np.flatnonzero(labels == mode)
    own = own if len(own) else np.arange(len(rows))
    return int(own[np.argmin([np.square(rows[number] - middle).sum() for number in own])])


_Modes = tuple[np.ndarray, dict[str, np.ndarray], int, Callable[[int], np.ndarray]]
"""The reference's modes [N], those of the other sets by name, how many modes there are, and the middle [D] of each by its number."""


def _by_cluster(reference: SampleSet, sets: Mapping[str, SampleSet], seed: int) -> _Modes:
    # Fitted to all: clusters of FP32's own samples alone would sit closer to those than to any new ones.
    modes = find_modes(np.concatenate([_rows(samples) for samples in (reference, *sets.values())]), seed=seed)
    others = {name: modes.assign(_rows(samples)) for name, samples in sets.items()}
    return modes.assign(_rows(reference)), others, len(modes.centres), lambda mode: modes.centres[mode]


def _by_class(reference: SampleSet, sets: Mapping[str, SampleSet], seed: int) -> _Modes:
    """There may be thousands, so that no more is held than the samples of one; one that nobody drew has the middle of all of FP32's."""
    everyone = [(_rows(samples), np.asarray(samples.labels)) for samples in (reference, *sets.values())]

    def middle(mode: int) -> np.ndarray:
        own = np.concatenate([rows[labels == mode] for rows, labels in everyone])
        return np.asarray((own if len(own) else everyone[0][0]).mean(axis=0))

    count = 1 + max(int(labels.max()) for _, labels in everyone)
    others = {name: np.asarray(samples.labels) for name, samples in sets.items()}
    return everyone[0][1], others, count, middle


def _rows(samples: SampleSet) -> np.ndarray:
    """What the samples are compared by, [N, D]."""
    return samples.x.reshape(len(samples), -1) if samples.features is None else samples.features
