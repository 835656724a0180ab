"""Runs of which each chain's best state so far is wanted: those with a deadline, and streams."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .best_after_drift import ASKED_AT_THE_END, BestAfterDrift, with_energies
from .best_on_device import until_on_device
from .best_so_far import Best, BestSoFar, Steps, Timed, improvements, until
from .blocks import ends_of_blocks
from .chain import chain_steps
from .config import SamplerConfig
from .engine import Engine
from .errors import DivergenceError, UsageError
from .fused_choice import FusedChoice
from .fused_steps import Fused
from .method import evaluations, knows_energies, warm_up_steps
from .on_device import hindrance
from .pace import BlockTime, Pace
from .request import Request

__all__ = ["BestRuns", "check_deadline"]

_LOG = logging.getLogger("ebm_export")


class BestRuns:
    """Makes such runs, which learn from one another how long fused steps take.

    Args:
        telling: whether steps are fused, by a graph that tells of each.
    """

    def __init__(self, telling: FusedChoice) -> None:
        self._telling = telling
        self._block_times: dict[int, dict[int, BlockTime]] = {}  # by number of chains, see `Pace`
        self._handing_over: dict[int, list[float]] = {}  # likewise
        self._told_of_no_step = False

    def by_deadline(self, request: Request, deadline: float) -> tuple[BestSoFar, Pace]:
        """Runs chains until a deadline.

        Args:
            request: the chains.
            deadline: in seconds, on the clock of `time.perf_counter`.

        Returns:
            The best states, and what is to be told when they are the caller's.

        Raises:
            UsageError: the chains cannot be run so.
            DivergenceError: no chain ever had a finite energy.
        """
        config, n = request.config, request.n
        known = knows_energies(config, exact=request.exact is not None)
        why = hindrance(config, exact=request.exact, switches=request.switches)
        if why is None and not known:
            why = 'a deadline asks for energies that the order "noise-drift" does not keep there'
        loop = request.engine.device_loop() if why is None else None
        if why is not None:
            request.engine.stays_on_host(why)
        fused = None
        if loop is None:
            fused = self._telling.open_for(config, n, calls=0, why=request.why_one_by_one())
        pace = Pace(
            deadline,
            # Without blocks, as of another sampler than the graph's, their times say nothing.
            None if fused is None else self._block_times.setdefault(n, {}),
            after=0 if known else ASKED_AT_THE_END,
            handing_over=self._handing_over.setdefault(n, []),
        )
        # Whoever looks for runaways among the steps asks the engine when time is over; `_told_of_runaways` does not.
        steps = _in_one_batch(
            request._replace(runaways=None),
            "deadline_ms",
            draw_ahead=loop is None,
            evenly=True,
            fused=fused,
            pace=pace,
        )
        if loop is not None:
            best = until_on_device(
                loop, request.engine, steps, config, request.seed, request.start.free, pace, request.first
            )
        else:
            asked = None if request.exact is None else _asked_in_block(config)
            keeper = Best(request.switches) if known else BestAfterDrift(request.switches)
            best = until(steps, pace, keeper, evaluations(config), asked)
        if not (best.steps or best.complete or self._told_of_no_step):
            self._told_of_no_step = True  # a control loop asks a hundred times a second
            _LOG.warning(
                "no step was taken by the deadline, so the states are those that chains start from: give it more time, fewer chains or a "
                "faster engine, and call warm(%d) before; later calls are not told of (see `steps` of what comes back)",
                request.n,
            )
        return _told_of_runaways(best, request), pace

    def stream(
        self,
        request: Request,
        by_turns: Callable[[Steps], Steps],
        *,
        seconds: float = 0.0,
        deadline: float | None = None,
    ) -> Iterator[BestSoFar]:
        """Returns the best states of chains as they improve, for whoever may ask the engine in between.

        Args:
            request: the chains.
            by_turns: makes steps of which each is a turn of its own on the engine.
            seconds: as in `improvements`.
            deadline: as in `by_deadline`; None goes on to the last step.

        Raises:
            UsageError: the chains cannot be run so.
        """
        config = request.config
        known = knows_energies(config, exact=request.exact is not None)
        # A step that leads a chain lower asks once more than those before it may have, after whose time it is expected to end.
        pace = None if deadline is None else Pace(deadline, after=0 if known else ASKED_AT_THE_END)
        # As in `by_deadline`: nobody asks the engine once time is over.
        watched = request if pace is None else request._replace(runaways=None)
        fused = self._telling.open_for(config, request.n, calls=0, why=request.why_one_by_one())
        steps = _in_one_batch(watched, "stream()", shared=True, evenly=pace is not None, fused=fused, pace=pace)
        request.engine.stays_on_host("stream() looks at the states of every step")
        if not known:
            steps = with_energies(steps, request.switches)
        if pace is None:
            return improvements(by_turns(steps), request.switches, seconds=seconds)
        asked = None if request.exact is None else _asked_in_block(config)
        timed = Timed(pace, evaluations(config), asked, finds=not known)
        judge = functools.partial(_told_of_runaways, request=request)
        return improvements(by_turns(steps), request.switches, seconds=seconds, timed=timed, judge=judge)

    def warm(
        self,
        engine: Engine,
        config: SamplerConfig,
        n: int,
        call: Callable[..., object],
        block: Callable[[Fused], object],
    ) -> None:
        """Does once what these runs need.

        Args:
            engine: takes the steps; open.
            config: settings of the runs to come.
            n: number of their chains, which fit into one engine call.
            call: makes such a run of n chains; it takes `config` and `deadline_ms`.
            block: takes a block of fused steps of n chains in every form that their conditions may have.
        """
        loop = None
        if hindrance(config) is None and knows_energies(config):
            loop = engine.device_loop()
        with contextlib.suppress(
            DivergenceError
        ):  # where `call` starts from noise, which is no start of this model's chains
            if loop is not None:
                # What stays on a device allocates there and captures a step; no time is left for taking one.
                told, self._told_of_no_step = self._told_of_no_step, True
                try:
                    call(config=config, deadline_ms=1e-3)
                finally:
                    self._told_of_no_step = told
                return
            fused = self._telling.open_for(config, n, calls=math.inf)
            if fused is not None:
                block(fused)  # the engine compiles, which is not how long one takes
                self._block_times.pop(n, None)
                call(config=config.replace(steps=fused.count, warmup=0), deadline_ms=1e6)

    def close(self) -> None:
        """Frees the engine of fused steps, where it is open; safe to call twice."""
        self._telling.close()


def check_deadline(milliseconds: Any, **given: Any) -> float:
    """Checks a deadline, and refuses what has no effect with one.

    Args:
        milliseconds: of the deadline.
        **given: such arguments, None where left out.

    Returns:
        The milliseconds.

    Raises:
        UsageError: they are no number above 0, or something was given.
    """
    for name, value in given.items():
        if value is not None:
            instead = ", or use stream()" if name == "callback" else ""
            raise UsageError(f"{name} has no effect with deadline_ms: leave it out{instead}")
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, numbers.Real) or not float(milliseconds) > 0:
        raise UsageError(f"deadline_ms: expected a number of milliseconds above 0, got {milliseconds!r}")
    return float(milliseconds)


def _told_of_runaways(best: BestSoFar, request: Request) -> BestSoFar:
    """The same, with a line and `diverged` for chains whose lowest energy is where they ran away to: there is one without end."""
    runaways = request.runaways
    if runaways is None or runaways.near(best.x):
        return best
    start = request.start(range(request.n))
    # What the start's energies were is gone, and there is no time to ask.
    found = runaways.look(best.x, start, lambda x: best.energy if x is best.x else np.full(len(x), np.nan))
    if found is None:
        return best
    _LOG.warning("%d of %d chains have %s: their best states are none", np.count_nonzero(found[0]), request.n, found[1])
    return best._replace(diverged=best.diverged | found[0])


def _asked_in_block(config: SamplerConfig) -> Callable[[int], int]:
    """Step -> how often exact sampling asks its engines before it knows a state that begins with it."""
    warm_up = warm_up_steps(config)
    end = ends_of_blocks(config.block, config.steps, warm_up)
    return lambda step: 1 if step < warm_up else end(step) - step + 1


def _in_one_batch(request: Request, what: str, **how: Any) -> Steps:
    """All chains in one batch; `how` as for `chain_steps`."""
    batch, n = request.batch, request.n
    if batch < n:
        raise UsageError(f"{what} runs all chains in one engine call, which takes {batch} of these {n}: ask for fewer")
    # One chain's end is no reason to return nothing: it keeps its best.
    return chain_steps(
        request.engine,
        request.config,
        request.start(range(n)),
        range(n),
        n,
        stop_when_diverged=False,
        energies=True,
        **how,
        **request.options,
    )
