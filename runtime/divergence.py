"""Chains whose numbers are no longer finite, or whose energy left its range."""

from __future__ import annotations

from typing import Literal

from .errors import DivergenceError

__all__ = ["RESTARTS", "Divergence", "stop_if_diverged"]

RESTARTS = 3
"""How often a chain that diverges is started anew before that is an error."""

Divergence = Literal["stop", "restart", "drop"]
"""What happens to such a chain, see `run.run_chains`."""


def stop_if_diverged(
    hit: int, step: int, count: int, energy_range: tuple[float, float] | None = None, *, anew: int | None = None
) -> None:
    """Raises a DivergenceError where `hit`, the number of chains that diverged, is above 0.

    Args:
        hit: number of chains.
        step: after which that was seen; 0 for the start.
        count: number of all chains that were looked at.
        energy_range: (lowest, highest) energy of a chain that is well; None where any finite one is.
        anew: number of the first chain that was hit, where it was started anew as often as that is done.
    """
    if hit:
        where = f"after step {step}" if step else "at the start"
        outside = "" if energy_range is None else f", or an energy outside {energy_range[0]:g} to {energy_range[1]:g},"
        smaller = "try a smaller step_size, grad_clip, or bounds (--step-size, --grad-clip, --bounds)"
        advice = smaller if step else "look at the states that they start from"
        who = f"{hit} of {count} chains have"
        if anew is not None:
            who = f"chain {anew}, started anew {RESTARTS} times, has"
        raise DivergenceError(f"{who} an energy, gradient or position that is not finite{outside} {where}; {advice}")
