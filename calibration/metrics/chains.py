"""How well chains mix: effective sample size and R-hat."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.errors import MissingBackend, UsageError
from .check import check_finite

try:
    from arviz_stats.base import array_stats
except ModuleNotFoundError as error:
    if error.name != "arviz_stats":
        raise  # installed, and broken inside
    raise MissingBackend(
        "judging how chains mix needs the package arviz-stats: pip install 'ebm-export[calibration]'"
    ) from error

__all__ = ["effective_sample_size", "r_hat"]


def effective_sample_size(draws: Any) -> np.ndarray:
    """Returns how many independent draws chains are worth (bulk ESS of Vehtari et al., Bayesian Analysis 2021).

    Chains are split in half and ranks are normalised first, so heavy tails do no harm. arviz-stats computes it.

    Args:
        draws: [C, T, *S], T states of each of C chains, or [C, T] of one number such as the energy; C at least 1,
            T at least 4.

    Returns:
        [*S] float64, above 0, more is better; up to somewhat more than C T, where draws alternate. A
        number that is the same in all draws has C T.

    Raises:
        UsageError: another shape, too few draws, or a number that is not finite.
    """
    array = _draws(draws)
    return np.asarray(array_stats.ess(array, chain_axis=0, draw_axis=1, method="bulk"), np.float64)


def r_hat(draws: Any) -> np.ndarray:
    """Returns how much wider all chains together are than each alone (rank-normalised split R-hat of the same paper).

    The larger of R-hat of the ranks and of the folded ranks, so that chains that differ only in width are seen too.

    Args:
        draws: [C, T, *S] as for `effective_sample_size`; a single chain counts as two, its halves, and needs 8 draws.

    Returns:
        [*S] float64; 1 is best, above 1.01 chains have not mixed. NaN where the number is the same in all draws.

    Raises:
        UsageError: another shape, too few draws, or a number that is not finite.
    """
    array = _draws(draws)
    if len(array) == 1:
        half = array.shape[1] // 2
        array = np.concatenate([array[:, :half], array[:, half : 2 * half]])
        if half < 4:
            raise UsageError(f"draws: expected at least 8 draws of a single chain, got {np.shape(draws)[1]}")
    constant = (array == array[:1, :1]).all(axis=(0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant has no width to divide by
        found = np.asarray(array_stats.rhat(array, chain_axis=0, draw_axis=1, method="rank"), np.float64)
    return np.where(constant, np.nan, found)


def _draws(draws: Any) -> np.ndarray:
    array = np.asarray(draws, np.float64)
    if array.ndim < 2 or array.shape[1] < 4 or not array.size:
        raise UsageError(f"draws: expected [chains, draws, *S] with at least 4 draws, got {list(array.shape)}")
    return check_finite("draws", array)
