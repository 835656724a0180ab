"""Many candidates for each answer, of which the one of lowest energy is given."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any, overload

import numpy as np

from .arguments import check_conditions, check_count, check_first, check_mask, check_states, split_keywords
from .best_runs import check_deadline
from .best_so_far import BestSoFar
from .divergence import Divergence
from .ebm import Ebm
from .energies import energies_of
from .errors import DivergenceError, UsageError
from .progress import Callback

__all__ = ["best_of"]

_LEAST_MS = 1e-3
"""What is left of a deadline that has passed: the start is evaluated in any case."""


@overload
def best_of(
    ebm: Ebm, n: int = 1, candidates: int = 64, seed: int = 0, *, deadline_ms: None = None, **keywords: Any
) -> tuple[np.ndarray, np.ndarray]: ...


@overload
def best_of(
    ebm: Ebm, n: int = 1, candidates: int = 64, seed: int = 0, *, deadline_ms: float, **keywords: Any
) -> BestSoFar: ...


def best_of(
    ebm: Ebm,
    n: int = 1,
    candidates: int = 64,
    seed: int = 0,
    *,
    first: int = 0,
    x0: Any = None,
    keep: Any = None,
    known: Any = None,
    cond: Mapping[str, Any] | None = None,
    max_batch: int | None = None,
    callback: Callback | None = None,
    diverged: Divergence = "stop",
    energy_range: tuple[float, float] | None = None,
    deadline_ms: float | None = None,
    **keywords: Any,
) -> tuple[np.ndarray, np.ndarray] | BestSoFar:
    """Draws several candidates for each answer and keeps that of lowest energy.

    This is how a policy picks an action: the candidates of answer i all see observation i. What is lowest among many is not
    a sample any more.

    Args:
        ebm: the energy.
        n: number of answers.
        candidates: chains for each of them.
        seed: as in `Ebm.sample`. Answer i has the chains i * candidates and on.
        first: number of the first answer, by which its candidates are drawn: answers 0 to 3 in one process and, with first=4, 4 to 7 in
            another are the 8 of one call with as many candidates. Arrays hold the rows of this call's answers.
        x0: [n, *S] or [1, *S], the states to start from in place of what `init` says; the candidates of answer i all start from state i.
        keep: [n, *S] or [1, *S] bool, true where a number of the answer is one of `known`.
        known: [n, *S] or [1, *S], those numbers; left out, those of `x0`.
        cond: conditioning arrays by name, each with n rows, or 1 that all answers share.
        max_batch: most samples in one engine call.
        callback: told about the start and every step, as in `Ebm.sample`.
        diverged: "stop" or "restart", as in `Ebm.sample`.
        energy_range: as in `Ebm.sample`.
        deadline_ms: as in `Ebm.sample`: each candidate's best state so far competes, and all candidates of all answers go into
            one engine call.
        **keywords: settings and conditioning arrays, as in `Ebm.sample`.

    Returns:
        [n, *S] float32, and their energies [n] float32; with a deadline a `BestSoFar` of the answers, whose `diverged` says so of
        the candidates that were taken. An answer without an energy is told of there as one of `Ebm.sample` is.

    Raises:
        UsageError: an argument has a wrong name, type, shape or value.
        DivergenceError: an energy or gradient is no longer finite, or the energies of all candidates for an answer.
    """
    called = perf_counter()
    check_count("n", n)
    check_count("candidates", candidates)
    check_first(first, n, candidates)
    if keep is not None and known is None and x0 is None:
        raise UsageError("keep: says which numbers of an answer are known, and known= (--known FILE.npy) is missing")
    if diverged == "drop":
        raise UsageError(
            'diverged="drop" leaves out candidates, and the rest would not say whose they are: use "restart" '
            "(--diverged restart)"
        )
    settings, values = split_keywords(keywords, ebm.model.cond_names)
    given = check_conditions({**values, **(cond or {})}, ebm.model.cond, n)
    shape = ebm.model.x.shape
    held = {} if keep is None else {"keep": check_mask("keep", keep, shape, n)}
    for name, states in (("known", known), ("x0", x0)):
        if states is not None:
            held[name] = check_states(name, states, shape, n)
    repeated, special = _for_each(given, candidates), dict[str, Any](_for_each(held, candidates))
    if deadline_ms is not None:  # what was done since is part of that time
        spent = 1000 * (perf_counter() - called)
        special["deadline_ms"] = max(check_deadline(deadline_ms) - spent, _LEAST_MS)
    drawn: np.ndarray | BestSoFar = ebm.sample(
        n * candidates,
        seed,
        first=int(first) * int(candidates),
        cond=repeated,
        max_batch=max_batch,
        callback=callback,
        diverged=diverged,
        energy_range=energy_range,
        **special,
        **settings,
    )
    if isinstance(drawn, BestSoFar):
        rows, lowest = _lowest(drawn.energy, n, candidates, any_serves=True)
        return drawn._replace(x=drawn.x[rows], energy=lowest, diverged=drawn.diverged[rows])
    rows, lowest = _lowest(energies_of(ebm, drawn, repeated, max_batch=max_batch), n, candidates)
    return drawn[rows], lowest


def _for_each(arrays: Mapping[str, np.ndarray], candidates: int) -> dict[str, np.ndarray]:
    """Arrays with a row for each candidate, or still 1 for all."""
    return {name: array if len(array) == 1 else np.repeat(array, candidates, axis=0) for name, array in arrays.items()}


def _lowest(
    energies: np.ndarray, n: int, candidates: int, *, any_serves: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and energies [n] of the lowest candidate of each answer, infinite where it has none with an energy.

    Raises:
        DivergenceError: an answer has no candidate with a finite energy, or where `any_serves` none of them has.
    """
    ranked = np.where(np.isfinite(energies), energies, np.inf).reshape(n, candidates)  # else NaN would be the lowest
    lowest = ranked.min(axis=1)
    lost = int(np.count_nonzero(~np.isfinite(lowest)))
    if lost and not (any_serves and lost < n):
        raise DivergenceError(
            f"{lost} of {n} answers have no candidate with a finite energy, of {candidates} each: take smaller steps"
        )
    return np.arange(n) * candidates + ranked.argmin(axis=1), lowest
