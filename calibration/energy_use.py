"""Electrical energy of drawing a sample."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.ebm import Ebm
from .power import PowerMeter, Sensor

__all__ = ["EnergyUse", "idle_watts", "measure_energy"]


@dataclass(frozen=True)
class EnergyUse:
    """Electrical energy of sampling.

    Attributes:
        joules_per_sample: everything that the sensors saw while one sample was drawn, in joules.
        watts: mean power meanwhile.
        idle_watts: mean power of the waiting machine.
        seconds: time that it was measured over.
        batch: number of chains that ran together.
    """

    joules_per_sample: float
    watts: float
    idle_watts: float
    seconds: float
    batch: int


def idle_watts(sensors: Sequence[Sensor], seconds: float = 1.0) -> float:
    """Mean power while this process sleeps, in watts.

    Raises:
        SensorError: a sensor could not be read.
    """
    with PowerMeter(sensors) as meter:
        time.sleep(seconds)
    return meter.reading().watts


def measure_energy(
    ebm: Ebm,
    sensors: Sequence[Sensor],
    cond: Mapping[str, np.ndarray],
    *,
    batch: int,
    idle: float,
    seconds: float = 2.0,
) -> EnergyUse:
    """Draws whole batches until some time has passed, and divides the energy by the number of samples.

    Args:
        ebm: opened, and warm at this batch size.
        sensors: at least one.
        cond: conditioning inputs [batch, ...] by name.
        batch: number of chains.
        idle: power of the waiting machine, in watts.
        seconds: shortest time to measure over.

    Raises:
        SensorError: a sensor could not be read.
    """
    drawn, begun = 0, time.perf_counter()
    with PowerMeter(sensors) as meter:
        while not drawn or time.perf_counter() - begun < seconds:
            ebm.sample(batch, seed=drawn, cond=dict(cond))
            drawn += batch
    reading = meter.reading()
    return EnergyUse(reading.joules / drawn, reading.watts, idle, reading.seconds, batch)
