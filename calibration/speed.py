"""Times the engines of a comparison, and marks those that no other beats in both time and quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np

from ..runtime.ebm import Ebm
from ..runtime.errors import EbmExportError
from ..runtime.precision_schedule import is_schedule
from .candidate import Candidate
from .compare_options import CompareOptions, Tell
from .comparison import EngineResult
from .conditions import conditions_for
from .energy_use import EnergyUse, idle_watts, measure_energy
from .latency import Latency, time_steps
from .pareto import pareto_front
from .power import Sensor, SensorError, find_sensors

__all__ = ["Speed", "measure_speed", "with_front"]


class Speed(NamedTuple):
    """What was measured of the engines of a comparison.

    Attributes:
        times: of a step, by batch size, by the engine's name.
        energy: electrical energy, by name, where there are sensors.
        power: one sentence on the sensors.
        not_timed: why an engine has no time at some batch size, by name: it costs the time, and not what its samples showed.
    """

    times: dict[str, tuple[Latency, ...]]
    energy: dict[str, EnergyUse]
    power: str
    not_timed: dict[str, str]


def measure_speed(engines: Sequence[Candidate], options: CompareOptions, tell: Tell) -> Speed:
    """Times all engines in turns, then reads the power sensors."""
    sensors, said = find_sensors(options.sysfs)
    by_name = {engine.name: engine for engine in engines}
    schedules = frozenset(name for name, engine in by_name.items() if is_schedule(engine.precision))

    def cond(name: str, count: int) -> dict[str, np.ndarray]:
        return conditions_for(by_name[name].bundle, count, options.cond)

    times: dict[str, list[Latency]] = {name: [] for name in by_name}
    use: dict[str, EnergyUse] = {}
    not_timed: dict[str, str] = {}
    with ExitStack() as stack:
        ebms: dict[str, Ebm] = {}
        for name, engine in by_name.items():
            try:
                ebms[name] = stack.enter_context(engine.open(options.threads))
            except EbmExportError as error:
                not_timed[name] = str(error)
        batches = sorted(set(options.batches))
        for batch in batches:
            told = partial(tell, f"timing batches of {batch}")
            found, failures = time_steps(
                ebms, cond, batch=batch, rounds=options.rounds, whole_chains=schedules, progress=told
            )
            for name, latency in found.items():
                times[name].append(latency)
            for name, why in failures.items():
                not_timed.setdefault(name, why)
                del ebms[name]
        if sensors:
            use, failures = _energies(ebms, sensors, cond, batches[-1], tell)
            said = _with_failures(said, use, failures)
    return Speed({name: tuple(own) for name, own in times.items()}, use, said, not_timed)


def _energies(
    ebms: Mapping[str, Ebm],
    sensors: Sequence[Sensor],
    cond: Callable[[str, int], dict[str, np.ndarray]],
    batch: int,
    tell: Tell,
) -> tuple[dict[str, EnergyUse], dict[str, str]]:
    """The energy of each engine, and of those whose energy is not known, why: a sensor must not cost a whole comparison."""
    use: dict[str, EnergyUse] = {}
    failures: dict[str, str] = {}
    try:
        idle = idle_watts(sensors)
    except SensorError as error:
        return use, dict.fromkeys(ebms, str(error))
    for index, (name, ebm) in enumerate(ebms.items()):
        tell("reading power sensors", index, len(ebms))
        try:
            use[name] = measure_energy(ebm, sensors, cond(name, batch), batch=batch, idle=idle)
        except (SensorError, EbmExportError) as error:
            failures[name] = str(error)
    return use, failures


def _with_failures(said: str, use: Mapping[str, EnergyUse], failures: Mapping[str, str]) -> str:
    """The sentence on the sensors, with the engines that they measured nothing of."""
    if not failures:
        return said
    reason = next(iter(failures.values()))
    return (
        f"{said}, but not of {', '.join(failures)}: {reason}" if use else f"no electric energy was measured: {reason}"
    )


def with_front(results: Sequence[EngineResult], batch: int) -> tuple[EngineResult, ...]:
    """Marks the Pareto front of time and quality; the reference is the first of the results."""
    # FP32 itself, judged with another seed, is so far off by chance: to be nearer than that is chance too. So is a hundredth, which
    # no table shows; the same graph in two precisions differs by a billionth.
    chance = max(results[0].quality or 1.0, 1.0)
    costs: list[tuple[float, ...] | None] = []
    for result in results:
        step, off = result.step_time(batch), result.quality
        costs.append(None if step is None or off is None else (step.median, round(max(off, chance), 2)))
    return tuple(
        dataclasses.replace(result, front=front) for result, front in zip(results, pareto_front(costs), strict=True)
    )
