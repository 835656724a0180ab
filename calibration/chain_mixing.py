"""How well an engine's chains mix, by the FP32 energy along a few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.ebm import Ebm
from ..runtime.errors import DivergenceError
from ..runtime.progress import Progress
from .metrics.chains import effective_sample_size, r_hat
from .temperature import comes_to_rest

__all__ = ["ChainMixing", "chain_mixing"]

_CHAINS = 16
"""As many as R-hat needs to see that chains stay apart; a hundredth of what the gate draws."""
_STATES = 64
"""States of each chain at most: more lie so close together that each says little."""
_FEWEST_STATES = 4
"""What both figures need."""


@dataclass(frozen=True)
class ChainMixing:
    """How the FP32 energy moves in the second half of a few chains; nothing passes or fails by it.

    Attributes:
        r_hat: how much wider all chains together are than each alone; 1 where each has been wherever the others
            have. Chains just long enough for one sample stay above that. None where the energy is the same in all states.
        effective: independent states that all of them are worth (bulk effective sample size).
        chains: number of chains, which share one condition.
        states: states of each, evenly spaced.
        first_step: steps taken at the first of them.
        last_step: steps taken at the last one, the end of the chain.
    """

    r_hat: float | None
    effective: float
    chains: int
    states: int
    first_step: int
    last_step: int


def chain_mixing(
    ebm: Ebm,
    fp32: Ebm,
    cond: Mapping[str, np.ndarray],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> ChainMixing | None:
    """Runs a few chains of an engine with its own sampler settings, and asks FP32 for the energy on the way.

    Args:
        ebm: of the engine.
        fp32: scores the states, whichever engine moves them; may be `ebm`.
        cond: one row of every conditioning input, [1, ...] by name: chains of different conditions never mix.
        seed: of start and noise.
        progress: called with (chain steps done, in all).

    Returns:
        The figures; None where chains come to rest and so draw nothing, have fewer than 4 states in their second half, or
        leave the numbers a float can hold.
    """
    steps = ebm.sampler.steps
    wanted = np.unique(np.linspace((steps + 1) // 2, steps, _STATES).round().astype(np.int64))
    if comes_to_rest(ebm.sampler) or len(wanted) < _FEWEST_STATES:
        return None
    place = {int(step): index for index, step in enumerate(wanted)}
    energies = np.full((_CHAINS, len(wanted)), np.nan)

    def watch(now: Progress) -> None:
        if progress is not None:
            progress(*now.part)
        if now.done in place:
            energies[np.asarray(now.chains), place[now.done]] = fp32.score(now.state.position.copy(), cond=cond)[0]

    try:
        ebm.sample(_CHAINS, seed=seed, cond=dict(cond), callback=watch)
    except DivergenceError:
        return None
    if not np.isfinite(energies).all():
        return None
    ratio = float(r_hat(energies))
    return ChainMixing(
        r_hat=None if np.isnan(ratio) else ratio,
        effective=float(effective_sample_size(energies)),
        chains=_CHAINS,
        states=len(wanted),
        first_step=int(wanted[0]),
        last_step=int(wanted[-1]),
    )
