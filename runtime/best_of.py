"""Many candidates for each answer, of which the one of lowest energy is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .arguments import check_conditions, check_count, split_keywords
from .ebm import Ebm
from .errors import DivergenceError
from .progress import Callback

__all__ = ["best_of"]


def best_of(
    ebm: Ebm,
    n: int = 1,
    candidates: int = 64,
    seed: int = 0,
    *,
    cond: Mapping[str, Any] | None = None,
    max_batch: int | None = None,
    callback: Callback | None = None,
    **keywords: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws several candidates for each answer and keeps that of lowest energy.

    This is how a policy picks an action: the candidates of answer i all see observation i. What is lowest among many is not
    a sample any more.

    Args:
        ebm: the energy.
        n: number of answers.
        candidates: chains for each of them.
        seed: as in `Ebm.sample`. Answer i has the chains i * candidates and on.
        cond: conditioning arrays by name, each with n rows, or 1 that all answers share.
        max_batch: most samples in one engine call.
        callback: told about the start and every step, as in `Ebm.sample`.
        **keywords: settings and conditioning arrays, as in `Ebm.sample`.

    Returns:
        [n, *S] float32, and their energies [n] float32.

    Raises:
        UsageError: an argument has a wrong name, type, shape or value.
        DivergenceError: an energy or gradient is no longer finite, or the energies of all candidates for an answer.
    """
    check_count("n", n)
    check_count("candidates", candidates)
    settings, values = split_keywords(keywords, ebm.model.cond_names)
    given = check_conditions({**values, **(cond or {})}, ebm.model.cond, n)
    repeated = {
        name: array if len(array) == 1 else np.repeat(array, candidates, axis=0) for name, array in given.items()
    }
    states = ebm.sample(n * candidates, seed, cond=repeated, max_batch=max_batch, callback=callback, **settings)
    energies = np.empty(n * candidates, dtype=np.float32)
    for first in range(0, len(states), max_batch or len(states)):
        rows = slice(first, first + (max_batch or len(states)))
        own = {name: array if len(array) == 1 else array[rows] for name, array in repeated.items()}
        energies[rows], _ = ebm.score(states[rows], cond=own)
    ranked = np.where(np.isfinite(energies), energies, np.inf).reshape(n, candidates)  # else NaN would be the lowest
    best, lowest = ranked.argmin(axis=1), ranked.min(axis=1)
    lost = int(np.count_nonzero(~np.isfinite(lowest)))
    if lost:
        raise DivergenceError(
            f"{lost} of {n} answers have no candidate with a finite energy, of {candidates} each: take smaller steps"
        )
    return states.reshape(n, candidates, *ebm.model.x.shape)[np.arange(n), best], lowest
