"""The metrics that the gate has in force, each as a ratio to its seed noise floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .chain_plan import ChainPlan
from .metrics.distances import centred, median_distance, squared_distances
from .metrics.energy_distance import energy_p_value
from .metrics.frechet import covariance_root, frechet_p_value, root_overlap
from .metrics.manifold import ManifoldPValues, manifold_p_values
from .metrics.mmd import gaussian_rows
from .metrics.mode_loss import ModeLoss, surest_loss
from .metrics.modes import ModeMasses, find_modes, loss_interval, mode_masses
from .metrics.permutation import permutation_p_value, shuffled_labels
from .metrics.principal_components import principal_components
from .metrics.sliced_wasserstein import slice_directions, sliced_p_value
from .metrics.stein import stein_sums
from .noise_floor import FloorRatio, embedding_ratio, partitions, self_ratio, shift_ratio, split_ratio
from .sample_set import SampleSet
from .verdict import MetricVerdict

__all__ = ["GATE_METRICS", "LOSS_IS_SURE", "Pools"]

_WIDE = 32
"""Principal components that stand for wider features where distances would drown in the noise of the others."""

_FRECHET_WIDTH = 16
"""Principal components that a covariance is fitted to, at most; a sixth of the subset's chains where that is fewer."""

_NEIGHBOURS = 5
"""k of density and coverage, as Naeem et al. (ICML 2020) use; a fifth of the subset's chains where that is fewer."""
_SAME = 0.01
"""Share of the spread within which two points of rest count as one."""

_CUT = 0.005
"""Share of chains at each end of a component that count as far out where a covariance is fitted."""

_DIRECTIONS = 32
"""Directions of the sliced Wasserstein distance."""

_MODE_LOSS = 0.5
"""A mode that lost more than this share of its mass is lost, where chance is ruled out."""
LOSS_IS_SURE = 0.001
"""p-value, for all modes together, below which a loss is no chance."""
_LOSS_IS_OPEN = 0.05
"""p-value below which more chains should settle it."""
_FINER = (45, 32, 32, 32, 22, 22, 22)
"""Samples of both pools in a cluster, on average, where losses are looked for in smaller ones than modes; each from another start. k-means
needs no gap between clusters, so a mode beside another has some for itself alone, in one of these or the next."""
_FINEST = 128
"""Most clusters of that."""


@dataclass(frozen=True)
class Pools:
    """Samples of FP32 and of a candidate, and what all metrics share.

    Whatever is fitted (principal components, clusters) is fitted to both pools together. Fitted to FP32's alone it
    would sit closer to FP32's chains than to any new ones, the ratio of an engine without fault would not be 1 and
    shuffled labels would prove nothing.
    """

    reference: SampleSet
    candidate: SampleSet
    plan: ChainPlan
    temperature: float
    seed: int

    @property
    def subset(self) -> int:
        """n, chains in a set."""
        return self.plan.subset

    @cached_property
    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Partitions of both pools into sets of n chains."""
        return partitions(len(self.reference), len(self.candidate), self.subset, self.seed)

    @cached_property
    def x(self) -> tuple[np.ndarray, np.ndarray]:
        """Both pools' samples, [N, D] and [M, D] float32 or float64, moved to a common mean of 0."""
        return _moved(self.reference.x, self.candidate.x)

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Both pools' features, or x where one of them has none, moved to a common mean of 0.

        Where chains come to rest, with noise of a hundredth of their spread: FP32's chains that rest at one point are nearer to each other
        than a grid of any precision, so that neighbours, clusters and kernels would tell precisions apart by any distance at all.
        """
        if self.reference.features is not None and self.candidate.features is not None:
            first, second = _moved(self.reference.features, self.candidate.features)
        else:
            first, second = self.x
        if self.temperature > 0:
            return first, second
        size = _SAME * float(np.sqrt(np.square(first, dtype=np.float64).mean()))
        random = np.random.default_rng(self.seed)
        blurred = [rows + (size * random.standard_normal(rows.shape)).astype(rows.dtype) for rows in (first, second)]
        return blurred[0], blurred[1]

    @cached_property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """The features along their first 32 principal components, [N, <= 32] and [M, <= 32] float64, largest first."""
        first, second = self.features
        found = principal_components(np.concatenate([first, second]), _WIDE, seed=self.seed)
        return found[: len(first)], found[len(first) :]

    @cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray, int]:
        """The mode of each sample of both pools, [N] and [M], and the number of modes."""
        if self.reference.labels is not None and self.candidate.labels is not None:
            first, second = self.reference.labels, self.candidate.labels
            return first, second, 1 + int(max(first.max(), second.max()))
        first, second = (rows[:, :_FRECHET_WIDTH] for rows in self.components)
        modes = find_modes(np.concatenate([first, second]), seed=self.seed)
        return modes.assign(first), modes.assign(second), len(modes.centres)

    @cached_property
    def finer(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `modes`, of more and smaller clusters than those; none where a classifier names the modes."""
        if self.reference.labels is not None and self.candidate.labels is not None:
            return []
        first, second = (rows[:, :_FRECHET_WIDTH] for rows in self.components)
        both = np.concatenate([first, second])
        most = min(_FINEST, len(np.unique(both, axis=0)))
        found = []
        for number, size in enumerate(_FINER):
            count = min(most, len(both) // size)
            if count > self.modes[2]:
                modes = find_modes(both, count=count, starts=1, seed=self.seed + number)
                found.append((modes.assign(first), modes.assign(second)))
        return found

    @cached_property
    def masses(self) -> ModeMasses:
        """Masses of the modes in both pools."""
        first, second, count = self.modes
        return mode_masses(first, second, count, seed=self.seed)

    @property
    def neighbours(self) -> int:
        """k of density and coverage."""
        return min(_NEIGHBOURS, max(1, self.subset // 5))

    @cached_property
    def balls(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Density within and across, coverage within and across, by partition and pair of sets."""
        first, second = (rows.astype(np.float32) for rows in self.components)
        found: tuple[list[np.ndarray], ...] = ([], [], [], [])
        k = self.neighbours
        for own, other in self.parts:
            tables = [np.empty((len(own), len(sets))) for sets in (own, other, own, other)]
            flat_own, flat_other = first[own.reshape(-1)], second[other.reshape(-1)]
            for index, chains in enumerate(own):
                centre = first[chains]
                apart = squared_distances(centre, flat_own)
                start = index * self.subset
                reach = np.partition(apart[:, start : start + self.subset], k, axis=1)[:, k, None]  # itself is first
                for place, distances in ((0, apart), (1, squared_distances(centre, flat_other))):
                    inside = (distances <= reach).reshape(self.subset, -1, self.subset)  # [ball, set, chain]
                    tables[place][index] = inside.sum(axis=(0, 2)) / (k * self.subset)
                    tables[place + 2][index] = inside.any(axis=2).mean(axis=0)
            for table, kept in zip(tables, found, strict=True):
                kept.append(table)
        return found[0], found[1], found[2], found[3]

    @cached_property
    def ball_p_values(self) -> ManifoldPValues:
        """p-values of density and coverage in the whole pools."""
        first, second = self.components
        return manifold_p_values(first, second, k=self.neighbours, seed=self.seed)


def _energy(pools: Pools) -> MetricVerdict:
    """Wasserstein-1 distance of FP32 energies."""
    first, second = (np.asarray(pool.energy, np.float64) for pool in (pools.reference, pools.candidate))

    within, across = [], []
    size = pools.plan.energy_subset
    for own, other in partitions(len(first), len(second), size, pools.seed):
        ranked = np.sort(first[own], axis=1)
        within.append(_squared_gaps(ranked, ranked))
        across.append(_squared_gaps(ranked, np.sort(second[other], axis=1)))
    p_value = energy_p_value(first, second, seed=pools.seed)
    return _verdict("energy", pools, split_ratio(within, across), p_value, f"sets of {size} chains")


def _sliced(pools: Pools) -> MetricVerdict:
    """Sliced Wasserstein-1 distance of x: of order 2 it would be ruled by the farthest chain where tails are heavy."""
    first, second = pools.x
    axes = slice_directions(first.shape[1], _DIRECTIONS, pools.seed).astype(first.dtype)
    projected = [rows @ axes for rows in (first, second)]
    within, across = [], []
    for own, other in pools.parts:
        # The quantiles along all directions as one long vector per set.
        one, two = (
            np.sort(rows[sets], axis=1).reshape(len(sets), -1)
            for rows, sets in ((projected[0], own), (projected[1], other))
        )
        within.append(_squared_gaps(one, one))
        across.append(_squared_gaps(one, two))
    p_value = sliced_p_value(first, second, directions=_DIRECTIONS, seed=pools.seed)
    return _verdict("sliced wasserstein", pools, split_ratio(within, across), p_value)


def _mmd(pools: Pools) -> MetricVerdict:
    """Maximum mean discrepancy of the features."""
    first, second = pools.features
    n, m = len(first), len(second)
    width = median_distance(first)
    labels = shuffled_labels(n, m, 199, pools.seed).T
    ones = np.concatenate([labels, np.ones((n + m, 1), bool)], axis=1).astype(np.float32)
    both = np.concatenate([first, second])
    sums = np.concatenate([kernel @ ones for _, kernel in gaussian_rows(both, both, width)]).astype(np.float64)
    to_first, to_all = sums[:, :-1], sums[:, -1:]
    own, mixed = (labels * to_first).sum(axis=0), (~labels * to_first).sum(axis=0)
    other = to_all.sum() - own - 2.0 * mixed
    unbiased = (own - n) / (n * (n - 1)) + (other - m) / (m * (m - 1)) - 2.0 * mixed / (n * m)
    from_first, from_second = to_first[:, 0], to_all[:, 0] - to_first[:, 0]
    found = embedding_ratio(
        pools.subset,
        (np.ones(n), from_first[:n] - 1.0),
        (np.ones(m), from_second[n:] - 1.0),
        (from_second[:n], from_first[n:]),
    )
    return _verdict("mmd", pools, found, permutation_p_value(unbiased), f"bandwidth {width:.3g}")


def _frechet(pools: Pools) -> MetricVerdict:
    """Frechet distance of the features' leading components.

    Each component is cut at its 0.5 % and 99.5 % quantiles in both pools together. A variance is as good as its largest
    number: one chain far out would make distance and floor a matter of which set it fell into.
    """
    width = min(_FRECHET_WIDTH, max(1, pools.subset // 6))
    both = np.concatenate([rows[:, :width] for rows in pools.components])
    both = np.clip(both, *np.quantile(both, [_CUT, 1.0 - _CUT], axis=0))
    first, second = both[: len(pools.reference)], both[len(pools.reference) :]

    def squares(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        means, roots = one.mean(axis=1), covariance_root(one)
        means_two, roots_two = two.mean(axis=1), covariance_root(two)
        apart = np.square(means[:, None] - means_two[None]).sum(axis=2)
        traces = np.square(roots).sum(axis=(1, 2))[:, None] + np.square(roots_two).sum(axis=(1, 2))[None]
        return np.maximum(apart + traces - 2.0 * root_overlap(roots[:, None], roots_two[None]), 0.0)

    within = [squares(first[own], first[own]) for own, _ in pools.parts]
    across = [squares(first[own], second[other]) for own, other in pools.parts]
    p_value = frechet_p_value(first, second, seed=pools.seed)
    return _verdict("frechet", pools, split_ratio(within, across), p_value, f"{first.shape[1]} components")


def _density(pools: Pools) -> MetricVerdict:
    """Density of candidates in FP32 neighbourhoods, too high or too low."""
    within, across, _, _ = pools.balls
    return _verdict("density", pools, shift_ratio(within, across), pools.ball_p_values.density, _means(within, across))


def _coverage(pools: Pools) -> MetricVerdict:
    """Coverage of FP32 neighbourhoods, against that by FP32 itself."""
    _, _, within, across = pools.balls
    return _verdict(
        "coverage", pools, shift_ratio(within, across), pools.ball_p_values.coverage, _means(within, across)
    )


def _modes(pools: Pools) -> MetricVerdict:
    """Masses of the modes, as a chi-square distance."""
    first, second, count = pools.modes
    if count == 1:
        return _verdict("modes", pools, FloorRatio(0.0, 0.0, 1.0, 1.0, 1.0), None, "one mode: nothing to compare")
    a, b = (np.bincount(labels, minlength=count).astype(np.float64) for labels in (first, second))
    n, m = len(first), len(second)
    weight = np.divide(n + m, a + b, out=np.zeros(count), where=a + b > 0)  # 1 / mean mass
    found = embedding_ratio(
        pools.subset,
        (weight[first], (weight * (a - 1.0))[first]),
        (weight[second], (weight * (b - 1.0))[second]),
        ((weight * b)[first], (weight * a)[second]),
    )
    return _verdict("modes", pools, found, pools.masses.p_value, f"{count} modes")


def _rare_modes(pools: Pools) -> MetricVerdict:
    """The largest loss of mass that any mode surely had, at most one half of it. It is named for the modes that nothing else guards.

    Ratios to the floor weigh a mode by its mass, so a mode of 2 % could go without a trace in them. Here it cannot, where
    the pool holds some 14 of its chains or more, and one in a hundred. A mode with fewer cannot be told from chance. One that lies beside another, with which it
    is one cluster, would still go, so losses are looked for in finer clusters too, for half of the chance of a false alarm: of hundreds of
    small clusters the surest loss has to be surer than of a few modes.
    """
    first, second, count = pools.modes
    n, m = len(first), len(second)
    whole = [(first, second)]
    tried = [surest_loss(own, _MODE_LOSS, seed=pools.seed) for own in (whole, pools.finer) if own]

    def seen(found: ModeLoss) -> float:
        return 1.0 - (found.candidate / m) / (found.reference / n) if found.reference else 0.0

    def chance(found: ModeLoss) -> float:
        return min(1.0, len(tried) * found.p_value)

    half_gone = [found for found in tried if seen(found) > _MODE_LOSS and chance(found) < _LOSS_IS_OPEN]
    # Where none has lost so much, what is shown is the surest loss of a mode; of hundreds of small clusters some lose half by chance.
    worst = min(half_gone, key=chance) if half_gone else surest_loss(whole, 0.0, seed=pools.seed)
    lost = bool(half_gone) and chance(worst) < LOSS_IS_SURE
    low, high = loss_interval(worst.reference, n, worst.candidate, m, 0.05 / (len(tried) * worst.tested))
    loss = max(0.0, seen(worst) if lost else min(low, seen(worst)))
    said = "a cluster within the modes" if worst is tried[-1] and len(tried) > 1 else f"mode {worst.mode} of {count}"
    return MetricVerdict(
        metric="rare modes",
        value=loss,
        floor=1.0,
        ratio=loss,
        low=max(0.0, min(low, seen(worst))),
        high=max(0.0, high),
        limit=_MODE_LOSS,
        p_value=chance(worst),
        passed=not lost,
        decided=lost or not half_gone,
        note=f"{said}, the worst of all modes, rare or not: {worst.reference} of {n} FP32 chains, {worst.candidate} of {m} of the candidate's",
    )


def _stein(pools: Pools) -> MetricVerdict:
    """Kernel Stein discrepancy from the FP32 model, against that of FP32 samples."""
    assert pools.reference.grad is not None and pools.candidate.grad is not None
    first, second = centred(*(rows.astype(np.float64) for rows in pools.x))
    width = median_distance(first)
    sums = [
        stein_sums(rows, (grad.reshape(rows.shape) / -pools.temperature).astype(rows.dtype), width)
        for rows, grad in ((first, pools.reference.grad), (second, pools.candidate.grad))
    ]
    return _verdict("stein", pools, self_ratio(pools.subset, *sums), None, f"bandwidth {width:.3g}")


GATE_METRICS: Mapping[str, Callable[[Pools], MetricVerdict]] = {
    "energy": _energy,
    "sliced wasserstein": _sliced,
    "mmd": _mmd,
    "frechet": _frechet,
    "density": _density,
    "coverage": _coverage,
    "modes": _modes,
    "rare modes": _rare_modes,
    "stein": _stein,
}
"""Every metric by its name, in the order of a report."""


def _verdict(metric: str, pools: Pools, found: FloorRatio, p_value: float | None, note: str = "") -> MetricVerdict:
    passed = found.ratio <= pools.plan.gate
    return MetricVerdict(
        metric=metric,
        value=found.value,
        floor=found.floor,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        limit=pools.plan.gate,
        p_value=p_value,
        passed=passed,
        decided=passed or found.low > pools.plan.gate,
        note=note,
    )


def _squared_gaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns squared mean absolute differences of rows, [K, L] from [K, n] and [L, n]."""
    return np.square(np.stack([np.abs(second - row).mean(axis=1, dtype=np.float64) for row in first]))


def _moved(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, two = centred(*(np.asarray(rows, np.float64).reshape(len(rows), -1) for rows in (first, second)))
    return one, two


def _means(within: list[np.ndarray], across: list[np.ndarray]) -> str:
    off = [own[~np.eye(len(own), dtype=bool)].mean() for own in within]
    return f"{np.mean([other.mean() for other in across]):.3f}, FP32 among itself {np.mean(off):.3f}"
