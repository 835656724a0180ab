"""Time and energy of engines whose power sensor does not always answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebm_export.calibration import speed
from ebm_export.calibration.candidate import bundle_candidates
from ebm_export.calibration.compare_options import CompareOptions
from ebm_export.calibration.power import Sensor
from ebm_export.calibration.speed import measure_speed
from ebm_export.runtime.bundle import Bundle
from tests.runtime.tiny_bundle import write_two_precisions


class Fitful(Sensor):
    """One watt, but it says nothing from one of its starts on until the next."""

    name = "fitful"

    def __init__(self, fails: set[int]) -> None:
        self._fails = fails
        self._starts = 0

    def start(self, now: float) -> None:
        self._last = now
        self._starts += 1

    def joules_since(self, now: float) -> float:
        if self._starts in self._fails:
            raise ValueError("expected a whole number, got ''")
        spent, self._last = now - self._last, now
        return spent


def measured(path: Path, fails: set[int], monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], set[str], str]:
    """Names of the engines that were timed, of those whose energy was measured, and the sentence on the sensors."""
    monkeypatch.setattr(speed, "find_sensors", lambda root: ([Fitful(fails)], "energy from fitful"))
    monkeypatch.setattr(speed, "idle_watts", lambda sensors: idle(sensors, 0.01))
    monkeypatch.setattr(speed, "measure_energy", lambda *a, **named: measure(*a, **named, seconds=0.01))
    engines, _ = bundle_candidates([Bundle(write_two_precisions(path))])
    options = CompareOptions(bundles=[path], batches=[2], rounds=3, threads=1)
    found = measure_speed(engines, options, lambda what, done, total: None)
    return set(found.times), set(found.energy), found.power


idle, measure = speed.idle_watts, speed.measure_energy
BOTH = {"fp32 onnxruntime", "int8 onnxruntime"}


def test_a_sensor_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(tmp_path / "a.ebm", set(), monkeypatch) == (BOTH, BOTH, "energy from fitful")


def test_an_engine_whose_energy_is_not_known_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed, use, said = measured(tmp_path / "a.ebm", {3}, monkeypatch)  # the first is for the waiting machine
    assert (timed, use) == (BOTH, {"fp32 onnxruntime"})
    assert said == (
        "energy from fitful, but not of int8 onnxruntime: fitful could not be read: expected a whole number, got ''"
    )


def test_no_energy_without_the_power_of_the_waiting_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed, use, said = measured(tmp_path / "a.ebm", {1}, monkeypatch)
    assert (timed, use) == (BOTH, set())
    assert said == "no electric energy was measured: fitful could not be read: expected a whole number, got ''"
