"""Shuffled labels, for two-sample tests that need no distribution."""

from __future__ import annotations

import numpy as np

__all__ = ["permutation_p_value", "shuffled_labels"]


def shuffled_labels(first: int, second: int, permutations: int, seed: int) -> np.ndarray:
    """Says for each shuffle which samples count as the first set.

    Args:
        first: samples of the first set, which stand first.
        second: samples of the second.
        permutations: number of shuffles.
        seed: same seed, same shuffles.

    Returns:
        [1 + permutations, first + second] bool; row 0 is the truth.
    """
    truth = np.arange(first + second) < first
    labels = np.repeat(truth[None], 1 + permutations, axis=0)
    np.random.default_rng(seed).permuted(labels[1:], axis=1, out=labels[1:])
    return labels


def permutation_p_value(statistics: np.ndarray) -> float:
    """Returns the share of labellings at least as far apart as the true one, which counts itself.

    Counting itself keeps the test exact: under the null P(p <= alpha) <= alpha (Phipson and Smyth 2010).

    Args:
        statistics: [1 + permutations], larger is farther apart; the first is of the true labels.

    Returns:
        From 1 / (1 + permutations) to 1.
    """
    # Shuffles that repeat the truth must count although their sums were rounded in another order.
    slack = 1e-9 * max(1e-300, float(np.abs(statistics).max()))
    return float((statistics >= statistics[0] - slack).mean())
