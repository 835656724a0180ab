"""Accepting and rejecting proposals."""

from __future__ import annotations

import numpy as np

__all__ = ["accept", "select"]


def accept(log_ratio: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decides for each chain whether its proposal is accepted, with probability min(1, exp(log_ratio)).

    NaN is a rejection. Whoever makes the ratio writes NaN where the proposal's energy is not finite.

    Args:
        log_ratio: [B], logarithm of the Metropolis-Hastings ratio.
        uniform: [B], uniform on [0, 1).

    Returns:
        accepted [B] bool, and the probabilities [B] float64 that it happened with.
    """
    probability = np.exp(np.minimum(np.where(np.isnan(log_ratio), -np.inf, log_ratio), 0.0))
    return uniform < probability, probability


def select(
    accepted: np.ndarray, proposed: np.ndarray, current: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Takes the proposal of each chain that accepted it and leaves the others where they are.

    Args:
        accepted: [B] bool.
        proposed: [B, ...].
        current: [B, ...].
        out: [B, ...] to write into, which may be `proposed` itself but not `current`; None allocates.

    Returns:
        [B, ...], the rows of `proposed` where accepted and of `current` elsewhere: `out` where it was given.
    """
    rows = accepted.reshape(-1, *[1] * (proposed.ndim - 1))
    if out is None:
        return np.where(rows, proposed, current)
    if out is not proposed:
        np.copyto(out, proposed)
    np.copyto(out, current, where=~rows)
    return out
