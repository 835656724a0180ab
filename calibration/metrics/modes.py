"""Which modes samples are in, and what happened to the rare ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.errors import UsageError
from .check import as_rows, check_width
from .permutation import permutation_p_value
from .scientific import ConvergenceWarning, KMeans, beta, hypergeom

__all__ = ["ModeMasses", "Modes", "find_modes", "loss_interval", "loss_p_values", "mode_masses"]

_COUNTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32)
"""Numbers of modes that are tried: steps of a third at most, up to what a report can show."""

_FEWEST = 8
_SMALLEST = 0.005
"""A mode has at least this many samples and this share of them. Eight that are all in one of two sets of equal size have
a p-value of 0.004: with fewer nothing can be said of a mode anyway."""


@dataclass(frozen=True)
class Modes:
    """Centres of the clusters that samples fall into."""

    centres: np.ndarray
    """[K, D] float64, the one with most samples first."""

    def assign(self, features: Any) -> np.ndarray:
        """Returns the number of each sample's nearest centre, [N] int64.

        Raises:
            UsageError: the features are not as wide as the centres or not finite.
        """
        rows = as_rows("features", features)
        check_width(("the modes", self.centres), ("features", rows))
        moved = rows - self.centres.mean(axis=0)
        centres = self.centres - self.centres.mean(axis=0)
        return np.asarray(np.argmin(np.square(centres).sum(axis=1) - 2.0 * (moved @ centres.T), axis=1))


@dataclass(frozen=True)
class ModeMasses:
    """How many samples each mode has in two sets. Arrays are [K]."""

    reference: np.ndarray
    """Share of the reference's samples in each mode."""
    candidate: np.ndarray
    """Share of the candidate's samples."""
    loss_p_value: np.ndarray
    """Exact one-sided p-value that the mode has less mass in the candidate, one mode at a time."""
    coverage: float
    """Share of the reference's modes in which the candidate has a sample, 0 to 1."""
    distance: float
    """sum over modes of (p - q)^2 / mean mass, 0 to 4; 0 is best."""
    p_value: float
    """Of the permutation test of `distance`."""


def find_modes(features: Any, *, count: int | None = None, starts: int = 3, seed: int = 0) -> Modes:
    """Clusters samples by k-means (scikit-learn's).

    Where the number is not given, it is the one of 1, 2, 3, 4, 6, .. 32 with the largest Bayesian information
    criterion for spherical Gaussians of one width (Pelleg and Moore, X-means, ICML 2000):

        sum_k n_k log(n_k / N) - (N D / 2) log(inertia / (N D)) - ((K (D + 1)) / 2) log N

    among those with at least 8 samples for each mode. A mode that is no sphere becomes several clusters. That does no
    harm where the clusters are counted in two sets, and a rare mode far from the others gets one of its own. A cluster of
    fewer than 8 samples, or of less than 0.5 % of them, is no mode but some samples far out: its centre is dropped, and
    its samples belong to the nearest mode.

    Args:
        features: [N, *S], N at least 2.
        count: number of modes, from 1 to N.
        starts: times that k-means begins anew; the best is taken.
        seed: of these starts.

    Returns:
        The modes. Constant features have one.

    Raises:
        UsageError: the shape is another, a number is not finite, or the count is out of range.
    """
    rows = as_rows("features", features, 2)
    n, width = rows.shape
    if count is not None and not 1 <= count <= n:
        raise UsageError(f"count: expected 1 to {n} modes, as many as there are samples at most, got {count}")
    distinct = len(np.unique(rows, axis=0))
    best: tuple[float, KMeans] | None = None
    for k in _COUNTS if count is None else (count,):
        if k > distinct or (count is None and k > 1 and _FEWEST * k > n):
            continue
        with warnings.catch_warnings():
            # Samples that differ by rounding alone leave clusters empty; those are seen below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = KMeans(k, n_init=starts if k > 1 else 1, random_state=seed, max_iter=50).fit(rows)
        sizes = np.bincount(fit.labels_, minlength=k)
        if sizes.min() == 0 and count is None:
            continue
        sizes = sizes[sizes > 0]
        spread = max(float(fit.inertia_), 1e-12 * float(np.square(rows).sum()) + 1e-300)
        evidence = float((sizes * np.log(sizes / n)).sum())
        evidence -= 0.5 * n * width * np.log(spread / (n * width)) + 0.5 * k * (width + 1) * np.log(n)
        if best is None or evidence > best[0]:
            best = evidence, fit
    if best is None:
        raise UsageError(
            f"count: expected at most {distinct} modes, as many as there are different samples, got {count}"
        )
    fit = best[1]
    sizes = np.bincount(fit.labels_, minlength=len(fit.cluster_centers_))
    order = np.argsort(-sizes, kind="stable")
    if count is None:
        order = order[sizes[order] >= min(int(sizes.max()), max(_FEWEST, _SMALLEST * n))]
    return Modes(np.asarray(fit.cluster_centers_[order], np.float64))


def mode_masses(
    reference: Any, candidate: Any, count: int | None = None, *, permutations: int = 199, seed: int = 0
) -> ModeMasses:
    """Counts samples by mode, whoever gave the labels: `Modes.assign` or a classifier.

    Args:
        reference: [N] labels from 0 to K - 1, whole numbers.
        candidate: [M] labels.
        count: K; None takes the largest label + 1.
        permutations: number of shuffles, drawn as tables with the same margins.
        seed: of the shuffles.

    Returns:
        Masses and tests.

    Raises:
        UsageError: a label is no whole number or out of range, or a set is empty.
    """
    labels = [_labels(name, given) for name, given in (("reference", reference), ("candidate", candidate))]
    known = 1 + max(int(own.max()) for own in labels)
    if count is not None and known > count:
        raise UsageError(f"labels: expected 0 to {count - 1}, got {known - 1}")
    a, b = (np.bincount(own, minlength=count or known) for own in labels)
    n, m = int(a.sum()), int(b.sum())
    pooled = a + b
    rng = np.random.default_rng(seed)
    tables = np.concatenate(
        [a[None], rng.multivariate_hypergeometric(pooled, n, size=permutations, method="marginals")]
    )
    weight = np.divide(n + m, pooled, out=np.zeros(len(pooled)), where=pooled > 0)
    distances = (np.square(tables / n - (pooled - tables) / m) * weight).sum(axis=1)
    return ModeMasses(
        reference=a / n,
        candidate=b / m,
        loss_p_value=loss_p_values(a, b, n, m),
        coverage=float((b[a > 0] > 0).mean()),
        distance=float(distances[0]),
        p_value=permutation_p_value(distances),
    )


def loss_p_values(reference: np.ndarray, candidate: np.ndarray, n: int, m: int) -> np.ndarray:
    """Returns [K] p-values that a mode has less mass in the candidate, one mode at a time.

    Mode k with a of N reference and b of M candidate samples: were its mass the same in both, b would be hypergeometric
    given a + b. The p-value is P(B <= b) under that, Fisher's exact test to one side. It does not need large
    counts, so it holds for rare modes: of 12 samples in one set and none in the other it says 0.0002. Of K modes
    the smallest should be held against alpha / K.

    Args:
        reference: [K] samples of the reference in each mode.
        candidate: [K] samples of the candidate.
        n: N, samples of the reference in all.
        m: M, samples of the candidate in all.
    """
    return np.asarray(hypergeom.cdf(candidate, n + m, reference + candidate, m))


def loss_interval(
    reference: int, total: int, candidate: int, candidate_total: int, alpha: float
) -> tuple[float, float]:
    """Returns an interval of the share of its mass that a mode lost, 1 - q / p.

    Given a + b samples in the mode, b is binomial with a share f that says q / p = N f / (M (1 - f)); f's interval is that
    of Clopper and Pearson (1934), which holds at least 1 - alpha whatever the counts.

    Args:
        reference: a, samples of the reference in the mode.
        total: N, samples of the reference.
        candidate: b, samples of the candidate in it.
        candidate_total: M.
        alpha: chance of missing the truth, above 0 and below 1.

    Returns:
        (low, high), at most 1; negative where mass was gained, down to minus infinity.
    """
    low = float(beta.ppf(alpha / 2.0, candidate, reference + 1)) if candidate else 0.0
    high = float(beta.ppf(1.0 - alpha / 2.0, candidate + 1, reference)) if reference else 1.0
    kept = [share / (1.0 - share) * total / candidate_total if share < 1.0 else np.inf for share in (low, high)]
    return 1.0 - kept[1], 1.0 - kept[0]


def _labels(name: str, given: Any) -> np.ndarray:
    labels = np.asarray(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
        raise UsageError(f"{name} labels: expected [N] whole numbers from 0, got {labels.dtype} {list(labels.shape)}")
    return labels
