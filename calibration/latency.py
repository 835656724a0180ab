"""Time of one Langevin step, of several candidates in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.ebm import Ebm
from ..runtime.errors import EbmExportError
from ..runtime.progress import Progress

__all__ = ["Latency", "time_steps"]

_ROUND_SECONDS = 0.4
"""How long one run of one candidate should take: long beside a tick of the scheduler, short beside a change of clock."""
_FEWEST_STEPS = 5


@dataclass(frozen=True)
class Latency:
    """Time of one step of a batch of chains, in milliseconds.

    Attributes:
        batch: number of chains.
        median: over the rounds.
        low: 10th percentile over the rounds.
        high: 90th percentile over the rounds.
        rounds: number of rounds.
        steps: steps in each round.
    """

    batch: int
    median: float
    low: float
    high: float
    rounds: int
    steps: int


def time_steps(
    ebms: Mapping[str, Ebm],
    conditions: Callable[[str, int], Mapping[str, np.ndarray]],
    *,
    batch: int,
    rounds: int = 9,
    whole_chains: frozenset[str] = frozenset(),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Latency], dict[str, str]]:
    """Times whole steps (noise, engine call, drift) as `Ebm.sample` runs them.

    The candidates take turns: one round runs each of them once, and every other round goes backwards. A machine that
    grows slower meanwhile slows all of them alike, which timing one after the other would charge to the last.

    Args:
        ebms: the candidates by name, opened.
        conditions: gives the conditioning inputs of (name, number of chains).
        batch: number of chains; where more than fit into an engine call, the times of their parts add up to that of a step.
        rounds: number of rounds; a first one that warms up is not counted.
        whole_chains: names of those whose steps are not all alike, a precision schedule: they run the whole chain.
        progress: called with (runs done, in all).

    Returns:
        The figures by name; and of those whose steps could not be run, why.
    """
    steps: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in ebms}
    failures: dict[str, str] = {}
    total, done = (rounds + 1) * len(ebms), 0
    for number in range(rounds + 1):
        order = list(ebms) if number % 2 else list(ebms)[::-1]
        for name in order:
            done += 1
            if name in failures:
                continue
            ebm = ebms[name]
            full = ebm.sampler.steps
            taken = steps.get(name, full if name in whole_chains else min(full, _FEWEST_STEPS))
            try:
                seconds = _run(ebm, batch, taken, conditions(name, batch))
                if number == 0 and name not in whole_chains:  # warm now: find how many steps fill a round
                    seconds = _run(ebm, batch, taken, conditions(name, batch))
                    wanted = round(_ROUND_SECONDS * taken / max(seconds, 1e-9))
                    steps[name] = max(min(full, wanted), min(full, _FEWEST_STEPS))
                elif number == 0:
                    steps[name] = full
                else:
                    times[name].append(1e3 * seconds / taken)
            except EbmExportError as error:
                failures[name] = str(error)
            if progress is not None:
                progress(done, total)
    return {
        name: _figures(batch, values, steps[name]) for name, values in times.items() if name not in failures
    }, failures


def _run(ebm: Ebm, batch: int, steps: int, cond: Mapping[str, np.ndarray]) -> float:
    """Seconds between the first and the last callback of each part of the batch that goes into one engine call.

    Loading, the start and the first scale are left out.
    """
    begun, spent = 0.0, 0.0

    def mark(now: Progress) -> None:
        nonlocal begun, spent
        if now.done == 0:
            begun = time.perf_counter()
        elif now.done == now.steps:
            spent += time.perf_counter() - begun

    config = ebm.sampler
    if steps != config.steps:
        config = config.replace(steps=steps, warmup=0)  # one that is as long as the bundle says may not fit into them
    ebm.sample(batch, seed=0, cond=dict(cond), callback=mark, config=config)
    return spent


def _figures(batch: int, values: list[float], steps: int) -> Latency:
    low, median, high = np.percentile(values, [10, 50, 90])
    return Latency(batch, float(median), float(low), float(high), len(values), steps)
