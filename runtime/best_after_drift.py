"""The best states of chains that do not learn the energies of theirs: Langevin dynamics in the order "noise-drift".

A step evaluates y, where its noise has led, and ends at x', where the drift leads from there: it tells E(y) and moves on from x'. So
E(y) says which state is likely to be the best, and the engine is asked for the energies of those that are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection

import numpy as np

from .best_so_far import Best, Steps, each_of, lowest_of, put
from .pace import Pace
from .progress import Progress

__all__ = ["ASKED_AT_THE_END", "BestAfterDrift", "with_energies"]

ASKED_AT_THE_END = 1
"""How often `BestAfterDrift` asks after the last step in any case."""


class BestAfterDrift(Best):
    """Keeps of each chain its start, and the state that the drift led to from the lowest point.

    Such a state counts once the next step has found an energy beside it: a drift may lead to where there is none. `settle` asks for the
    energies of these states, or of the last where that is the one, and in time that is left for those of all last states. The lowest
    is the best; its energy is its own.
    """

    def __init__(self, switches: Collection[int]) -> None:
        super().__init__(switches)
        self._likely = self._newest = np.empty(0, dtype=np.float32)
        self._is_new: np.ndarray = np.zeros(0, dtype=bool)  # whether the newest, of the last step, is likelier still

    def take(self, now: Progress) -> bool:
        """Takes one step in, and says whether it led a chain to a state that is likely to be better."""
        position, told, each = now.state.position, now.state.energy, each_of(now)
        if self._now is None:
            self._begin(position)
            self._likely, self._newest = self._x.copy(), np.empty_like(self._x)
            self._is_new = np.zeros(len(position), dtype=bool)
            np.copyto(self._energy, told, where=np.isfinite(told))
            if now.diverged is not None:  # an energy can be finite where a position is not
                self._energy[now.diverged] = np.inf
            self._now = now
            return False
        if now.done - 1 in self._switches:
            self._to_beat[:] = self._energy[:] = np.inf
        well: np.ndarray = ~np.isnan(told if each is None else each.energy[0])
        if now.diverged is not None and each is None:
            well &= ~now.diverged
        gone = self._now.diverged  # before this block, whose numbers nobody has looked at
        if each is not None and gone is not None:
            well &= ~gone
        self._count(self._newest, self._is_new & well)
        if each is not None and len(each.energy) > 1:
            on_the_way = np.where(np.isnan(each.energy[1:]), np.float32(np.nan), each.energy[:-1])
            lowest, energy = lowest_of(each.position[:-1], on_the_way, self._block)
            better = energy < self._to_beat
            if gone is not None:
                better &= ~gone
            self._count(lowest, better)
            np.copyto(self._to_beat, energy, where=better)
        self._now = now
        self._is_new = told < self._to_beat  # false for NaN
        if now.diverged is not None:
            self._is_new &= ~now.diverged
        if not self._is_new.any():
            return False
        put(self._newest, position, self._is_new)
        np.copyto(self._to_beat, told, where=self._is_new)
        return True

    def settle(self, pace: Pace) -> None:
        """Asks for the energies of the likely states, and of others as far as there is time."""
        now = self._now
        assert now is not None and now.energies is not None, "whoever wants energies has asked the loop for them"
        if now.done == 0:  # the start's is known
            return
        likely = self._likely.copy()
        put(likely, self._newest, self._is_new)
        everyone = np.ones(len(likely), dtype=bool)
        well = everyone if now.diverged is None else ~now.diverged
        unknown = self._is_new & ~np.isfinite(self._offer(likely, everyone, now.energies, pace))
        # The likely states of chains that are lost are from before; their last ones are worth nothing.
        for states, which, worth in (
            (self._likely, everyone, unknown),
            (now.state.position, well, well & ~self._is_new),
        ):
            if worth.any() and pace.has_time(last=True):
                self._offer(states, which, now.energies, pace)

    def _count(self, position: np.ndarray, chains: np.ndarray) -> None:
        if chains.any():
            put(self._likely, position, chains)

    def _offer(
        self, states: np.ndarray, which: np.ndarray, energies: Callable[[np.ndarray], np.ndarray], pace: Pace
    ) -> np.ndarray:
        """Evaluates states and keeps those that are better, of the chains `which`; returns their energies, NaN where one counts for nothing."""
        energy = _of_states(states, energies(states))
        pace.took()
        energy[~which] = np.nan
        better = energy < self._energy  # false for NaN
        put(self._x, states, better)
        np.copyto(self._energy, energy, where=better)
        return energy


def with_energies(steps: Steps, switches: Collection[int] = ()) -> Steps:
    """Tells of steps with the energies of their states, for `improvements`.

    Where the noise led no chain lower than before, nobody asks, and energies are NaN; at the last step somebody does. Of several steps
    in one call each chain's likeliest state is told of.

    Args:
        steps: of `chain_steps`, with `energies`.
        switches: as in `Best`.
    """
    with contextlib.closing(steps):
        for now in steps:
            if now.done == 0:
                yield now
                lowest = np.full(len(now.chains), np.inf, dtype=np.float32)
                block = np.empty((len(lowest), now.state.position[0].size), dtype=np.float32)
                continue
            assert now.energies is not None, "whoever wants energies has asked the loop for them"
            if now.done - 1 in switches:
                lowest[:] = np.inf
            position, told, each = now.state.position, now.state.energy, each_of(now)
            if each is not None:
                position, told = lowest_of(each.position, each.energy, block)
            worth = bool((told < lowest).any()) or now.done == now.steps
            np.fmin(lowest, told, out=lowest)
            energy = _of_states(position, now.energies(position)) if worth else np.full_like(lowest, np.nan)
            yield now._replace(state=now.state._replace(position=position, energy=energy), info=None)


def _of_states(states: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """A new array of these energies [B], NaN where the state [B, *S] or its energy is not finite: lower than any other may be -inf."""
    finite = np.isfinite(energy) & np.isfinite(states.reshape(len(states), -1)).all(axis=1)
    return np.where(finite, energy, np.float32(np.nan))
