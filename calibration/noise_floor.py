"""How far a candidate is from FP32, in units of how far FP32 is from itself.

Chains are independent, so two pools of N chains hold many pairs of smaller sets. With D a distance, A, A' disjoint sets
of n chains of the FP32 pool and Q one of the candidate's pool, drawn with another seed,

    floor = root mean square of D(A, A') over the ways to pick A and A'
    value = root mean square of D(A, Q)
    ratio = value / floor.

Under the null (both engines sample one distribution) both mean squares have the same expectation, whatever n and N are,
because a set drawn without replacement from a pool of independent chains is a set of independent chains. Averaging over
many splits uses all N chains for an estimate at n, with far less spread than one pair of sets gives.

Three kinds of distance are estimated in three ways:
- *Distances of mean embeddings* (MMD, masses of modes) have a closed form: the mean over all splits at once.
- *Other distances* (Wasserstein, Frechet) are averaged over random partitions of both pools, all pairs of parts.
- *Numbers that compare two sets but are no distance* (density, coverage): D(A, Q) = |t(A, Q) - t0|, t0 being the mean of
  t(A, A'). So ratio^2 = 1 + (shift / sd)^2, sd the standard deviation of t(A, A') and shift the distance of the means of
  t(A, Q) and t(A, A').

Intervals are jackknife intervals (Efron and Stein 1981) over chains, or over the parts of a partition, of log ratio^2.
A partition's own chance spread is no uncertainty of the mean over partitions and is taken out of the latter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FloorRatio", "embedding_ratio", "partitions", "self_ratio", "shift_ratio", "split_ratio"]

_NORMAL = 1.959964
"""97.5 % point of the normal distribution: intervals hold 95 %."""

_SETS = 256
"""Sets of n chains that all partitions of a pool have together; with 16 a partition, 16 partitions."""


@dataclass(frozen=True)
class FloorRatio:
    """A ratio to the seed noise floor and its 95 % interval."""

    value: float
    floor: float
    ratio: float
    low: float
    high: float


def partitions(reference: int, candidate: int, subset: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cuts two pools into sets of n chains, several times at random.

    Args:
        reference: chains in the FP32 pool, at least 2 n.
        candidate: chains in the candidate's pool, at least 2 n.
        subset: n.
        seed: same seed, same partitions.

    Returns:
        Pairs of [reference // n, n] and [candidate // n, n] int64 chain numbers; the chains left over differ each time.
    """
    rng = np.random.default_rng(seed)
    sets = reference // subset

    def cut(chains: int) -> np.ndarray:
        return rng.permutation(chains)[: chains // subset * subset].reshape(-1, subset)

    return [(cut(reference), cut(candidate)) for _ in range(max(4, -(-_SETS // sets)))]


def split_ratio(within: list[np.ndarray], across: list[np.ndarray]) -> FloorRatio:
    """Estimates the ratio from squared distances between the sets of several partitions.

    Args:
        within: for each partition [K, K] squared distances between FP32 sets; the diagonal is not looked at.
        across: for each partition [K, L] squared distances of FP32 sets to the candidate's.
    """
    floors, values, logs, spreads = [], [], [], []
    for own, other in zip(within, across, strict=True):
        k, m = other.shape
        own_rows = own.sum(axis=1) - np.diagonal(own)
        floor, value = own_rows.sum() / (k * (k - 1)), float(other.mean())
        floors.append(floor)
        values.append(value)
        if not floor > 0.0 or not value > 0.0:
            continue
        # Without FP32 set i, then without the candidate's set j.
        floor_i = (own_rows.sum() - 2.0 * own_rows) / ((k - 1) * (k - 2)) if k > 2 else np.full(k, floor)
        value_i = (other.sum() - other.sum(axis=1)) / ((k - 1) * m)
        value_j = (other.sum() - other.sum(axis=0)) / (k * (m - 1))
        logs.append(math.log(value / floor))
        spreads.append(_jackknife(_log(value_i) - _log(floor_i)) + _jackknife(_log(value_j)))
    floor, value = float(np.mean(floors)), float(np.mean(values))
    if not logs:
        return _from_log(value, floor, 0.0)
    between = float(np.var(logs, ddof=1)) if len(logs) > 1 else 0.0
    chance = between / len(logs)  # of the mean over partitions
    return _from_log(value, floor, max(float(np.mean(spreads)) - between + chance, chance))


def embedding_ratio(
    subset: int,
    own: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    across: tuple[np.ndarray, np.ndarray],
) -> FloorRatio:
    """Estimates the ratio of distances between mean embeddings, over all splits at once.

    With v the unbiased variance of one pool in the kernel's space, v = mean k(x_i, x_i) - mean k(x_i, x_j) over i != j,

        floor^2 = 2 v / n,    value^2 = |mean embeddings' difference|^2 + (1/n - 1/N) (v + v').

    Args:
        subset: n.
        own: of the FP32 chains: k(x_i, x_i) and the sum of k(x_i, x_j) over j != i, [N] float64 each.
        other: the same of the candidate's chains, [M].
        across: sum over j of k(x_i, y_j) for each FP32 chain [N], and over i for each of the candidate's [M].
    """
    n, m = len(own[0]), len(other[0])
    pairs = float(across[0].sum())

    def squares(a: tuple[Any, ...], q: tuple[Any, ...], cross: Any) -> tuple[np.ndarray, np.ndarray]:
        """Takes (count, sum of k(x, x), sum of k(x, y)) of both pools, whole or without each chain in turn."""
        (n, diag, off), (m, diag_q, off_q) = a, q
        v, v_q = diag / n - off / (n * (n - 1)), diag_q / m - off_q / (m * (m - 1))
        apart = (diag + off) / n**2 + (diag_q + off_q) / m**2 - 2.0 * cross / (n * m)
        return 2.0 * v / subset, apart + (1.0 / subset - 1.0 / n) * v + (1.0 / subset - 1.0 / m) * v_q

    whole = n, own[0].sum(), own[1].sum()
    whole_q = m, other[0].sum(), other[1].sum()
    less = n - 1, whole[1] - own[0], whole[2] - 2.0 * own[1]
    less_q = m - 1, whole_q[1] - other[0], whole_q[2] - 2.0 * other[1]
    floor, value = squares(whole, whole_q, pairs)
    floor_i, value_i = squares(less, whole_q, pairs - across[0])
    floor_j, value_j = squares(whole, less_q, pairs - across[1])
    spread = _jackknife(_log(value_i) - _log(floor_i)) + _jackknife(_log(value_j) - _log(floor_j))
    return _from_log(float(value), float(floor), spread)


def self_ratio(subset: int, own: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> FloorRatio:
    """Estimates the ratio of two sets' distances from the model itself, which needs no other set.

    D(A)^2 is the mean of u over all pairs in A, i = j included: mean u(x_i, x_i) / n + (1 - 1/n) mean u(x_i, x_j), the
    latter over i != j in the whole pool.

    Args:
        subset: n.
        own: of the FP32 chains: u(x_i, x_i) and the sum of u(x_i, x_j) over j != i, [N] float64 each.
        other: the same of the candidate's chains.
    """

    def square(count: int, diag: np.ndarray, off: np.ndarray) -> np.ndarray:
        return diag / (count * subset) + (1.0 - 1.0 / subset) * off / (count * (count - 1))

    spread, found = 0.0, []
    for diag, off in (own, other):
        found.append(max(0.0, float(square(len(diag), diag.sum(), off.sum()))))
        spread += _jackknife(_log(square(len(diag) - 1, diag.sum() - diag, off.sum() - 2.0 * off)))
    return _from_log(found[1], found[0], spread)


def shift_ratio(within: list[np.ndarray], across: list[np.ndarray]) -> FloorRatio:
    """Estimates the ratio for a number that compares two sets but is no distance.

    Args:
        within: for each partition [K, K], t(A_i, A_j); the diagonal is not looked at.
        across: for each partition [K, L], t(A_i, Q_j).
    """
    middles, variances, shifts, spreads = [], [], [], []
    for own, other in zip(within, across, strict=True):
        k, m = other.shape
        off = own[~np.eye(k, dtype=bool)]
        middles.append(off.mean())
        variances.append(off.var())
        shifts.append(other.mean() - off.mean())
        rows = own.sum(axis=1) + own.sum(axis=0) - 2.0 * np.diagonal(own)
        own_i = (off.sum() - rows) / ((k - 1) * (k - 2)) if k > 2 else np.full(k, off.mean())
        other_i = (other.sum() - other.sum(axis=1)) / ((k - 1) * m)
        other_j = (other.sum() - other.sum(axis=0)) / (k * (m - 1))
        spreads.append(_jackknife(other_i - own_i) + _jackknife(other_j))
    shift, variance = float(np.mean(shifts)), float(np.mean(variances))
    between = float(np.var(shifts, ddof=1)) if len(shifts) > 1 else 0.0
    chance = between / len(shifts)
    error = math.sqrt(max(float(np.mean(spreads)) - between + chance, chance))
    floor = math.sqrt(variance)
    if floor == 0.0:
        ratio = 1.0 if shift == 0.0 else math.inf
        return FloorRatio(abs(shift), floor, ratio, ratio, ratio)

    def ratio_at(size: float) -> float:
        # The square of a shift that is only chance has the mean error^2, which is no distance.
        return math.sqrt(max(0.0, 1.0 + (size**2 - error**2) / variance))

    ratio = ratio_at(shift)
    low, high = ratio_at(max(0.0, abs(shift) - _NORMAL * error)), ratio_at(abs(shift) + _NORMAL * error)
    return FloorRatio(ratio * floor, floor, ratio, low, high)


def _from_log(value: float, floor: float, spread: float) -> FloorRatio:
    """Returns roots of mean squares and an interval from the variance of log ratio^2."""
    value, floor = math.sqrt(max(0.0, value)), math.sqrt(max(0.0, floor))
    if floor == 0.0:  # all FP32 chains agree: so must the candidate's
        ratio = 1.0 if value == 0.0 else math.inf
        return FloorRatio(value, floor, ratio, ratio, ratio)
    ratio = value / floor
    reach = math.exp(min(0.5 * _NORMAL * math.sqrt(spread), 300.0))
    return FloorRatio(value, floor, ratio, ratio / reach, ratio * reach)


def _jackknife(without: np.ndarray) -> float:
    """Returns the jackknife's variance from the estimates without one unit each."""
    count = len(without)
    return (count - 1) / count * float(np.square(without - without.mean()).sum())


def _log(squares: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(squares, 1e-300))
