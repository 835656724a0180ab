"""Energy that a device spends, from the sensors that it offers.

Two kinds are read, both through sysfs and without a further package:

- RAPL, the counters of x86 processors (`/sys/class/powercap/intel-rapl:*`, also on AMD). A counter is in microjoules and
  starts again at zero after `max_energy_range_uj`. Packages are added up, and the memory zones where they are reported.
- INA rails, the shunt monitors of Jetson boards (`/sys/class/hwmon/hwmon*`). A rail gives millivolts and milliamperes, or
  microwatts; its power is integrated over time. Where a rail measures the board's whole input, that one alone is taken,
  because the other rails are fed from it.

What is measured is everything that the processor or the board does meanwhile, not this process alone.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

__all__ = ["EnergyReading", "PowerMeter", "Sensor", "SensorError", "find_sensors"]

_INTERVAL = 0.05
"""Seconds between two readings. A package at 200 W wraps a 32-bit microjoule counter after 21 s, so no wrap is missed."""
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VIN")
"""Labels of Jetson rails that feed all others: Orin NX and Nano, TX2 and the first Nano, and carrier boards."""


class SensorError(OSError):
    """A power sensor that could be read before, and then not; what it was to measure is not known."""


class Sensor(ABC):
    """Something that tells how much energy went through it.

    Attributes:
        name: for people to read, such as "RAPL package-0" or "rail VDD_IN".
    """

    name: str

    @abstractmethod
    def start(self, now: float) -> None:
        """Takes the first reading at a time in seconds.

        Raises:
            OSError: the sensor cannot be read.
            ValueError: what it says is no number.
        """

    @abstractmethod
    def joules_since(self, now: float) -> float:
        """Energy since the reading before, in joules, at a time in seconds.

        Raises:
            OSError: the sensor cannot be read.
            ValueError: what it says is no number.
        """


class _Counter(Sensor):
    """A RAPL zone: a counter in microjoules that wraps around."""

    def __init__(self, zone: Path) -> None:
        self.name = f"RAPL {_text(zone / 'name')}"
        self._file = zone / "energy_uj"
        self._range_file = zone / "max_energy_range_uj"
        self._range = self._last = 0

    def start(self, now: float) -> None:
        self._range, self._last = _number(self._range_file), _number(self._file)

    def joules_since(self, now: float) -> float:
        value = _number(self._file)
        spent = value - self._last if value >= self._last else value + self._range - self._last
        self._last = value
        return spent * 1e-6


class _Rail(Sensor):
    """A shunt monitor: power at an instant, integrated by the trapezoid rule."""

    def __init__(self, label: str, watts: Callable[[], float]) -> None:
        self.name = f"rail {label}"
        self.label = label
        self._watts = watts
        self._last = (0.0, 0.0)

    def start(self, now: float) -> None:
        self._last = (now, self._watts())

    def joules_since(self, now: float) -> float:
        before, watts_before = self._last
        watts = self._watts()
        self._last = (now, watts)
        return 0.5 * (watts + watts_before) * (now - before)


@dataclass(frozen=True)
class EnergyReading:
    """What the sensors said between the start and the end of a `PowerMeter`.

    Attributes:
        joules: energy of all sensors together.
        seconds: time that it was measured over.
        sensors: names of the sensors.
    """

    joules: float
    seconds: float
    sensors: tuple[str, ...]

    @property
    def watts(self) -> float:
        """Mean power in watts; 0 where no time went by."""
        return self.joules / self.seconds if self.seconds > 0 else 0.0


def find_sensors(root: str | Path = "/sys") -> tuple[list[Sensor], str]:
    """Looks for power sensors that can be read.

    Args:
        root: where sysfs is mounted.

    Returns:
        The sensors (RAPL where there is any, else rails), and one sentence: which they are, or why there are none.
    """
    root = Path(root)
    locked: list[str] = []
    for kind in (_rapl_zones, _rails):
        found = []
        for sensor in kind(root):
            try:
                sensor.start(0.0)
            except PermissionError:
                locked.append(sensor.name)
            except (OSError, ValueError):  # a rail of a part that is switched off
                continue
            else:
                found.append(sensor)
        if found:
            return found, "energy from " + ", ".join(sensor.name for sensor in found)
    if locked:
        return [], f"no electric energy was measured: {', '.join(locked)} can be read by root alone"
    return [], "no electric energy was measured: this device has neither RAPL counters nor INA power rails"


class PowerMeter:
    """Adds up the energy of some sensors in a thread; a context manager.

    Args:
        sensors: as `find_sensors` returns them.
        interval: seconds between two readings.

    Example:
        with PowerMeter(sensors) as meter:
            work()
        meter.reading().joules

    Raises:
        SensorError: on entry, where a sensor cannot be read.
    """

    def __init__(self, sensors: Sequence[Sensor], interval: float = _INTERVAL) -> None:
        self._sensors = tuple(sensors)
        self._interval = interval
        self._joules = 0.0
        self._seconds = 0.0
        self._failure: SensorError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PowerMeter:
        self._begun = time.perf_counter()
        for sensor in self._sensors:
            try:
                sensor.start(self._begun)
            except (OSError, ValueError) as error:
                raise _unreadable(sensor, error) from error
        self._thread = threading.Thread(target=self._watch, name="power meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        self._seconds = self._read() - self._begun

    def reading(self) -> EnergyReading:
        """Returns the energy between entry and exit.

        Raises:
            SensorError: a sensor could not be read at some time in between, so that its energy is not known.
        """
        if self._failure is not None:
            raise self._failure
        return EnergyReading(self._joules, self._seconds, tuple(sensor.name for sensor in self._sensors))

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._read()

    def _read(self) -> float:
        """Adds what was spent until now, and returns when that was."""
        now = time.perf_counter()
        for sensor in self._sensors:
            try:
                self._joules += sensor.joules_since(now)
            except (OSError, ValueError) as error:
                self._failure = self._failure or _unreadable(sensor, error)  # the first is the cause
                self._stop.set()
        return now


def _unreadable(sensor: Sensor, error: Exception) -> SensorError:
    failure = SensorError(f"{sensor.name} could not be read: {error}")
    failure.__cause__ = error  # it is raised in another thread than the one that met it
    return failure


def _rapl_zones(root: Path) -> list[Sensor]:
    """Packages and memory; the zones inside a package (core, uncore) are part of it, and psys holds packages."""
    wanted = [
        zone
        for zone in sorted((root / "class/powercap").glob("*-rapl:*"))
        if (zone / "energy_uj").exists() and _text(zone / "name").startswith(("package", "dram"))
    ]
    return [_Counter(zone) for zone in wanted]


def _rails(root: Path) -> list[Sensor]:
    rails = []
    for folder in sorted((root / "class/hwmon").glob("hwmon*")):
        if not (folder / "name").exists() or not _text(folder / "name").startswith("ina"):
            continue
        for power in sorted(folder.glob("power*_input")):
            label = _label(folder, power.name.removesuffix("_input"), power.name[len("power") :].split("_")[0])
            rails.append(_Rail(label, _microwatts(power)))
        for current in sorted(folder.glob("curr*_input")):
            number = current.name[len("curr") :].split("_")[0]
            voltage = folder / f"in{number}_input"
            if voltage.exists() and not (folder / f"power{number}_input").exists():
                rails.append(_Rail(_label(folder, f"in{number}", number), _product(voltage, current)))
    # JetPack 4 and older kernels of NVIDIA's: milliwatts under the I2C driver.
    for power in sorted((root / "bus/i2c/drivers/ina3221x").glob("*/iio:device*/in_power*_input")):
        number = power.name[len("in_power") :].split("_")[0]
        name = power.parent / f"rail_name_{number}"
        rails.append(_Rail(_text(name) if name.exists() else number, _milliwatts(power)))
    whole = [rail for rail in rails if rail.label in _WHOLE_BOARD]
    return list(whole or rails)


def _label(folder: Path, stem: str, number: str) -> str:
    for name in (f"{stem}_label", f"in{number}_label"):
        if (folder / name).exists():
            return _text(folder / name)
    return f"{folder.name} channel {number}"


def _microwatts(power: Path) -> Callable[[], float]:
    return lambda: _number(power) * 1e-6


def _milliwatts(power: Path) -> Callable[[], float]:
    return lambda: _number(power) * 1e-3


def _product(voltage: Path, current: Path) -> Callable[[], float]:
    return lambda: _number(voltage) * _number(current) * 1e-6  # mV * mA


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{path}: expected a whole number, got {text!r}") from error
