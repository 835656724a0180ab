"""Whether samples have lost a mode, looked for in several clusterings at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .modes import loss_p_values
from .scientific import hypergeom

__all__ = ["ModeLoss", "surest_loss"]

_PERMUTATIONS = 4999
_AT_ONCE = 250
_UNSURE = (1e-4, 1.0)
"""Bounds between which shuffles are worth their time: below, the bound says enough, and above, chance cannot be ruled out anyway."""


class ModeLoss(NamedTuple):
    """The cluster that surely lost most.

    Attributes:
        clustering: which of them it belongs to.
        mode: its number there.
        reference: samples of the reference in it.
        candidate: samples of the candidate in it.
        tested: clusters in all clusterings.
        p_value: chance that any of them loses so much for sure where both sets have one distribution.
    """

    clustering: int
    mode: int
    reference: int
    candidate: int
    tested: int
    p_value: float


def surest_loss(
    clusterings: Sequence[tuple[np.ndarray, np.ndarray]],
    limit: float,
    *,
    permutations: int = _PERMUTATIONS,
    seed: int = 0,
) -> ModeLoss:
    """Finds the cluster whose loss is surest, among those that lost more than a share of their mass, or else among all.

    How sure one loss is, Fisher's exact test says (`modes.loss_p_values`). For all clusters together there is Bonferroni's bound, that times
    their number. Clusterings of the same samples overlap and their counts are small, so the chance is two to four times less; where that
    matters, labels are shuffled between the sets, and the surest losses of the shuffles are counted that are as sure (Westfall and Young,
    Resampling-Based Multiple Testing, 1993). Clusters must be those of both sets together, or shuffles would prove nothing.

    Args:
        clusterings: labels from 0 of the reference's samples [N] and of the candidate's [M], by clustering; N and M are the same in all.
        limit: share of its mass that a cluster may lose, from 0 to below 1.
        permutations: shuffles.
        seed: of them.
    """
    n, m = (len(labels) for labels in clusterings[0])
    counts: list[int] = []
    ids: list[np.ndarray] = []
    for first, second in clusterings:
        count = 1 + int(max(first.max(), second.max()))
        ids.append(np.concatenate([first, second]) + sum(counts))
        counts.append(count)
    tested = sum(counts)
    a, b = (
        np.bincount(np.concatenate([own[part] for own in ids]), minlength=tested) for part in (slice(n), slice(n, None))
    )
    by_chance = loss_p_values(a, b, n, m)
    fallen = b / m < (1.0 - limit) * (a / n)
    worst = int(np.argmin(np.where(fallen, by_chance, by_chance + fallen.any())))
    bound = tested * float(by_chance[worst])
    p_value = min(1.0, bound)
    if fallen[worst] and _UNSURE[0] < bound < _UNSURE[1]:
        p_value = min(bound, _shuffled(ids, a + b, (n, m), limit, float(by_chance[worst]), permutations, seed))
    clustering = int(np.searchsorted(np.cumsum(counts), worst, side="right"))
    mode = worst - sum(counts[:clustering])
    return ModeLoss(clustering, mode, int(a[worst]), int(b[worst]), tested, p_value)


def _shuffled(
    ids: list[np.ndarray],
    sizes: np.ndarray,
    numbers: tuple[int, int],
    limit: float,
    found: float,
    times: int,
    seed: int,
) -> float:
    """Share of shuffles, the real one among them, with a loss as sure as `found` in any cluster."""
    n, m = numbers
    # Most of the candidate's samples that a cluster of each size may have for its loss to count: more of them are not so sure, or no loss.
    most = np.full(int(sizes.max()) + 1, -1)
    for size in np.unique(sizes):
        kept = np.arange(size + 1)
        sure = hypergeom.cdf(kept, n + m, size, m) <= found * (1.0 + 1e-9)
        sure &= kept / m < (1.0 - limit) * ((size - kept) / n)
        most[size] = int(np.flatnonzero(sure).max(initial=-1))
    within = np.zeros((n + m, len(sizes)), np.float32)
    for own in ids:
        within[np.arange(n + m), own] = 1.0
    random, labels = np.random.default_rng(seed), np.repeat([0.0, 1.0], numbers).astype(np.float32)
    as_sure = 0
    for start in range(0, times, _AT_ONCE):
        drawn = random.permuted(np.tile(labels, (min(_AT_ONCE, times - start), 1)), axis=1)
        as_sure += int((np.rint(drawn @ within) <= most[sizes]).any(axis=1).sum())
    return (1 + as_sure) / (1 + times)
