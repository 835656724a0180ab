"""What happens to chains whose numbers are no longer finite, whose energy left its range, or which ran away."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from .chain_numbers import Chains
from .errors import DivergenceError

__all__ = ["EARLIER", "RESTARTS", "Divergence", "stop_if_diverged", "tell_of_restarts"]

_LOG = logging.getLogger("ebm_export")

RESTARTS = 3
"""How often a chain that diverges is started anew before that is an error."""

EARLIER = -2
"""In place of the step after which a chain was seen to diverge, where a process before this one saw it; -1 is one that did not."""

_NAMED = 8
"""Chains that a line names; a batch may lose thousands."""

Divergence = Literal["stop", "restart", "drop"]
"""What happens to such a chain, see `run.run_chains`."""


def stop_if_diverged(
    hit: int,
    step: int,
    count: int,
    energy_range: tuple[float, float] | None = None,
    *,
    anew: int | None = None,
    why: str = "",
) -> None:
    """Raises a DivergenceError where `hit`, the number of chains that diverged, is above 0.

    Args:
        hit: number of chains.
        step: after which that was seen; 0 for the start.
        count: number of all chains that were looked at.
        energy_range: (lowest, highest) energy of a chain that is well; None where any finite one is.
        anew: number of the first chain that was hit, where it was started anew as often as that is done.
        why: what these chains have, as `Runaways` says it; "" for numbers that are not finite and energies out of range.
    """
    if hit:
        where = f"after step {step}" if step else "at the start"
        outside = "" if energy_range is None else f", or an energy outside {energy_range[0]:g} to {energy_range[1]:g},"
        smaller = "try a smaller step_size, grad_clip, or bounds (--step-size, --grad-clip, --bounds)"
        advice = smaller if step else "look at the states that they start from"
        who = f"{hit} of {count} chains have"
        if anew is not None:
            who = f"chain {anew}, started anew {RESTARTS} times, has"
        why = why or f"an energy, gradient or position that is not finite{outside}"
        raise DivergenceError(f"{who} {why} {where}; {advice}")


def tell_of_restarts(chains: Chains, count: int, attempt: int, seen: np.ndarray) -> None:
    """Logs that chains run again: one warning with the first of their numbers, and all numbers at the level INFO where that are not all.

    Args:
        chains: their numbers.
        count: number of chains in their batch.
        attempt: how often they are started anew with this time.
        seen: the steps after which it was seen that they diverged, 0 for the start, `EARLIER` where no step is known.
    """
    named = ", ".join(map(str, chains[:_NAMED]))
    if len(chains) > _NAMED:
        named += f" and {len(chains) - _NAMED} more"
    when = ""
    known = seen[seen != EARLIER]
    if len(known):
        first, last = int(known.min()), int(known.max())
        when = f"seen after steps {first} to {last}" if last > first else f"seen after step {first}"
        when = when if last else "seen at the start"
        when = f", {when}" if len(known) == len(seen) else f", {len(known)} of them {when}"
    _LOG.warning(
        "%d of %d chains diverged%s, and are started anew (%d of %d): %s",
        len(chains),
        count,
        when,
        attempt,
        RESTARTS,
        named,
    )
    if len(chains) > _NAMED:
        _LOG.info("all that are started anew (%d of %d): %s", attempt, RESTARTS, ", ".join(map(str, chains)))
