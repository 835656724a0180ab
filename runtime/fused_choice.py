"""Whether several steps in one call are faster than one by one, on this device."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from .config import SamplerConfig
from .engine import Engine
from .errors import DivergenceError, LoadError
from .fused_steps import Fused
from .manifest import ModelSpec
from .progress import on_the_host
from .run import run_chains
from .start import start_states
from .warming import blank_conditions

__all__ = ["FusedChoice", "is_faster", "nearby"]

_LOG = logging.getLogger("ebm_export")

_LONG_STEP = 2e-3
"""Seconds of a step beside which what a call costs (tens of microseconds) is nothing; then no engine is compiled to find out."""
_ROUNDS = 5

_LONG_RUN = 4096
"""Engine calls from which it is worth timing fused steps: that takes a hundred, and compiling an engine. Those of earlier runs count, where
the run itself is of an eighth as many: a control loop of a few steps is not to stop for that one day."""


class FusedChoice:
    """Decides whether steps are fused, for each number of chains once.

    Args:
        fused: what takes several steps; None where there is nothing.
        asked: True or False where the caller says; None lets measurement say.
        measured: what was measured on this device before, by the number of chains; None where nothing was. It counts near these
            numbers, see `nearby`.
        time: (fused, settings, number of chains) -> whether fused steps are faster.

    Attributes:
        asked: what the caller said.
    """

    def __init__(
        self,
        fused: Fused | None,
        asked: bool | None,
        measured: Mapping[int, bool] | None,
        time: Callable[[Fused, SamplerConfig, int], bool],
    ) -> None:
        self.asked = asked
        self._fused = fused
        self._measured = measured or {}
        self._time = time
        self._faster: dict[int, bool] = {}
        self._calls: dict[int, float] = {}  # of runs one by one, by the number of chains
        self._told: set[str] = set()

    @property
    def there(self) -> bool:
        """Whether there is something that takes several steps."""
        return self._fused is not None

    def open_for(
        self,
        config: SamplerConfig,
        batch: int,
        *,
        calls: float,
        why: str = "",
        every: int | None = None,
        asked: bool | None = None,
    ) -> Fused | None:
        """Returns what takes several steps in one call, open, or None where they are taken one by one.

        Args:
            config: settings of the chains.
            batch: chains in one engine call.
            calls: of the engine that the run would take one by one, from which follows whether it is worth timing both ways where that has
                not been done: 0 never is, infinity always.
            why: what stands against it, whatever the settings are; empty where nothing does.
            every: number of steps of which no call goes beyond a multiple; None for no such place.
            asked: what this run needs, in place of what the caller said; None leaves it at that.

        Raises:
            LoadError: fused steps were asked for, and their file is gone or another one.
        """
        fused = self._fused
        asked = self.asked if asked is None else asked
        if fused is None or asked is False:
            return None
        why = why or fused.why_not(config, every)
        if why:
            if asked and why not in self._told:  # the samples are the same, so it is no error; once will do
                where = "with a deadline, an energy_range or in a stream, " if fused.each else ""
                _LOG.warning("%ssteps are taken one by one: %s", where, why)
                self._told.add(why)
            return None
        try:
            if not asked and not self._are_faster(fused, config, batch, calls):
                return None
            fused.open()
        except LoadError as error:
            if asked:
                raise
            _LOG.warning("steps are taken one by one: %s", error)
            self._fused = None
            return None
        return fused

    def _are_faster(self, fused: Fused, config: SamplerConfig, batch: int, calls: float) -> bool:
        measured = nearby(self._measured, batch)
        if measured is not None:
            return measured
        if batch not in self._faster:
            total = self._calls[batch] = self._calls.get(batch, 0) + calls
            if total < _LONG_RUN or 8 * calls < _LONG_RUN:
                return False
            self._faster[batch] = self._time(fused, config, batch)
        return self._faster[batch]

    def close(self) -> None:
        """Frees the engine, where it is open; safe to call twice."""
        if self._fused is not None:
            self._fused.close()


def nearby(measured: Mapping[int, bool], batch: int) -> bool | None:
    """What was measured near a number of chains: at up to twice or half as many, or at fewer and at more alike.

    What a call costs is much beside the steps of a few chains and nothing beside those of many, so that what holds for 8 says nothing
    of 512.

    Returns:
        What was measured at the nearest number; None where none is near.
    """
    fewer, more = (
        max((m for m in measured if m <= batch), default=None),
        min((m for m in measured if m >= batch), default=None),
    )
    if fewer is not None and more is not None and measured[fewer] == measured[more]:
        return measured[fewer]
    near = [number for number in (fewer, more) if number is not None and max(number, batch) <= 2 * min(number, batch)]
    return measured[min(near, key=lambda number: max(number, batch) / min(number, batch))] if near else None


def is_faster(
    engine: Engine,
    fused: Fused,
    config: SamplerConfig,
    batch: int,
    model: ModelSpec,
    data: np.ndarray | None,
) -> bool:
    """Times a block of steps both ways, in turns.

    Args:
        engine: open.
        fused: with settings that fit; its engine is opened where that is still to be found out, and stays open.
        config: the sampler's settings.
        batch: number of chains.
        model: what the energy takes.
        data: [M, *S] float32, for init="data"; None where calls will give it.
    """
    settings = config.replace(steps=fused.count, warmup=0)
    if settings.init == "data" and data is None:
        settings = settings.replace(init="normal")
    cond = blank_conditions(model, 1)

    def seconds(steps: Fused | None) -> float:
        begun = time.perf_counter()
        run_chains(
            engine,
            settings,
            lambda chains: start_states(settings, model.x.shape, chains, 0, data),
            batch,
            cond=cond,
            callback=on_the_host,  # chains that stay on a device have no use for fused steps
            fused=steps,
        )
        return time.perf_counter() - begun

    try:
        seconds(None)
        if seconds(None) / fused.count > _LONG_STEP:
            return False
        fused.open()
        seconds(fused)
        pairs = [(seconds(None), seconds(fused)) for _ in range(_ROUNDS)]
    except DivergenceError:  # blocks that are done again step by step are no faster
        return False
    return statistics.median(one / many for one, many in pairs) > 1
