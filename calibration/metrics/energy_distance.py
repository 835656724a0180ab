"""How far apart the energies of two sets of samples are."""

from __future__ import annotations

from typing import Any

import numpy as np

from .check import as_numbers
from .permutation import permutation_p_value, shuffled_labels
from .scientific import wasserstein_distance

__all__ = ["energy_p_value", "energy_wasserstein"]


def energy_wasserstein(reference: Any, candidate: Any) -> float:
    """Returns the Wasserstein-1 distance of two samples of energies, scipy's.

    W1 = integral over E of |F(E) - G(E)|, F and G the shares of energies below E: how much energy has to be moved,
    per sample, to turn one histogram into the other.

    Args:
        reference: [N] energies, N at least 1.
        candidate: [M] energies; M need not be N.

    Returns:
        In units of the energy, 0 or above, 0 is best. Two constants are as far apart as they differ. Samples of one
        distribution are about sd / sqrt(N) apart, so a value means nothing without that of two reference samples.

    Raises:
        UsageError: another shape, or an energy that is not finite.
    """
    return float(wasserstein_distance(as_numbers("reference energies", reference), as_numbers("candidate", candidate)))


def energy_p_value(reference: Any, candidate: Any, *, permutations: int = 199, seed: int = 0) -> float:
    """Tests by permutation of W1 whether both samples of energies have one distribution.

    Args:
        reference: [N] energies.
        candidate: [M] energies.
        permutations: number of shuffles; the smallest p-value is 1 / (1 + permutations).
        seed: of the shuffles.

    Returns:
        p-value; 1 where all energies are equal.

    Raises:
        UsageError: another shape, or an energy that is not finite.
    """
    first, second = as_numbers("reference energies", reference), as_numbers("candidate energies", candidate)
    both = np.concatenate([first, second])
    order = np.argsort(both, kind="stable")
    labels = shuffled_labels(len(first), len(second), permutations, seed)[:, order]
    below = np.cumsum(labels, axis=1)[:, :-1]  # [P, N + M - 1], how many of the first set are below each gap
    total = np.arange(1, len(both))
    gaps = np.diff(both[order])
    return permutation_p_value(np.abs(below / len(first) - (total - below) / len(second)) @ gaps)
