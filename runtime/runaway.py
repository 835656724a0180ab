"""Chains that ran away: their numbers are finite, and orders of magnitude outside of what the export saw.

A step that is too large takes a chain away faster and faster, and a sampler that cannot reject says nothing until float32 has no
larger number; a run that ends before, or a chain that comes back, leaves states that no chain of this model has. For a chain b that
starts at s_b, with [x0, x1] and [e0, e1] the numbers of x and the energies on the export's own chains,

    reach_b  = how far its numbers lie outside of [x0, x1] and of those of s_b, in widths of that range
    excess_b = how far its energy lies outside of [e0, e1] and E(s_b), in units of max(width of that range, T * d)

with T the highest temperature of the call, and d the numbers in x. Both have to be large: a heavy tail reaches far at an energy that is
hardly higher, and a hot chain has high energies not far away. T * d is what heat can do: where E grows as |x|^k its mean in
equilibrium is T * d / k above the minimum, and the share of states above several times that falls exponentially. A start that was given
far out counts as seen. How far down a chain may go is known only where [e0, e1] is. Within bounds nothing can run away. All of it is of the
chain alone, and does not depend on its batch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable

import numpy as np

from .config import SamplerConfig
from .errors import UsageError
from .manifest import ModelSpec
from .schedule import distinct, temperature_schedule

__all__ = ["Runaways"]

_LOG = logging.getLogger("ebm_export")

_AWAY = 100.0
"""Reach and excess above which a chain has run away. Langevin steps just above the largest stable ones left the digits' chains, at 300 steps,
at reaches of 16 to 50 and excesses of 700 to 3000; a hundred times their temperature at 3 and less than 1."""

_FAR = 10.0
"""Reach and excess above which a warning is due, as it is for a reach above `_AWAY` alone."""

_LOST = 1e6
"""Reach above which a chain has run away unless its energy is lower than at its start, as where an observation leads that far: it may
level off out there, or be unknown. Of the samples of a Cauchy distribution, of which an export saw 96, one in 10^8 lies so far out."""


class Runaways:
    """Looks for such chains among those of one call, and says where some are merely far away.

    Args:
        model: what the export saw of x and of its energy; without a range of x nothing is looked for.
        config: settings of the call.
        told: set once that was said, and shared by calls of which one says it: a control loop makes a hundred in a second.
    """

    def __init__(self, model: ModelSpec, config: SamplerConfig, told: threading.Event | None = None) -> None:
        self._seen, self._energies, self._numbers = model.range, model.energies, math.prod(model.x.shape)
        self._config = config
        self._on = config.bounds is None and self._seen is not None and self._seen[0] < self._seen[1]
        self._told = told or threading.Event()

    def near(self, position: np.ndarray) -> bool:
        """Whether all states [B, *S] are where the export's were or not far from it, as far as two passes over them tell."""
        if not self._on or self._seen is None:
            return True
        low, high = self._seen
        room = _FAR * (high - low)
        return bool(position.min() >= low - room and position.max() <= high + room)

    def look(
        self, position: np.ndarray, start: np.ndarray, energies: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, str] | None:
        """Looks at each chain, where `near` has found some that are not.

        Args:
            position: [B, *S] float32.
            start: [B, *S] float32, where these chains started.
            energies: x [B, *S] -> energy [B], a new array.

        Returns:
            [B] bool, true for chains that have run away, and what to say of them; None where none has. States that are not
            finite have not.
        """
        if not self._on or self._seen is None:
            return None
        lows, highs = _ends(position)
        start_lows, start_highs = _ends(start)
        low, high = np.fmin(start_lows, self._seen[0]), np.fmax(start_highs, self._seen[1])  # [B]
        reach = np.maximum(low - lows, highs - high) / (high - low)
        if not (reach > _FAR).any():
            return None
        energy, first = energies(position).astype(np.float64), energies(start).astype(np.float64)
        least, most = self._energies or (np.nan, np.nan)
        bottom, top = np.fmin(first, least), np.fmax(first, most)
        unit = np.fmax(top - bottom, self._heat() * self._numbers)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            below = (
                bottom - energy if self._energies is not None else -np.inf
            )  # how far down an honest chain goes is not known
            excess = np.maximum(below, energy - top) / unit
        excess[~np.isfinite(energy)] = np.inf
        excess[np.isnan(excess)] = 0.0
        away = np.isfinite(reach) & ((reach > _AWAY) & (excess > _AWAY) | (reach > _LOST) & ~(energy < first))
        far = np.isfinite(reach) & ~away & ((reach > _AWAY) | (reach > _FAR) & (excess > _FAR))
        if far.any() and not self._told.is_set():
            self._told.set()
            _LOG.warning(
                "%d of %d chains are far from where the export's own were (%s): the steps may be too large (see step_size, grad_clip, bounds); "
                "energy_range=(LOWEST, HIGHEST) (--energy-range) says at which energies chains are well",
                np.count_nonzero(far),
                len(far),
                self._numbers_of(lows[far], highs[far], energy[far]),
            )
        if not away.any():
            return None
        return away, f"run away ({self._numbers_of(lows[away], highs[away], energy[away])})"

    def _heat(self) -> float:
        """The highest temperature of the call; 0 where noise goes with steps of size 0, which leaves it open."""
        with contextlib.suppress(UsageError):
            return float(distinct(temperature_schedule(self._config)).max())
        return 0.0

    def _numbers_of(self, lows: np.ndarray, highs: np.ndarray, energy: np.ndarray) -> str:
        assert self._seen is not None
        said = f"x from {lows.min():.3g} to {highs.max():.3g}, where the export saw {self._seen[0]:.3g} to {self._seen[1]:.3g}"
        said += f", and energies from {energy.min():.3g} to {energy.max():.3g}"
        if self._energies is not None:
            said += ", where it saw {:.3g} to {:.3g}".format(*self._energies)
        return said


def _ends(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest number of each state [B, *S], two arrays [B] float64."""
    rows = states.reshape(len(states), -1)
    return rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
