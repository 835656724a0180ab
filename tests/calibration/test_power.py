"""Power sensors in a made-up sysfs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ebm_export.calibration.power import PowerMeter, SensorError, find_sensors


def put(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def rapl(root: Path, zone: str, name: str, energy: int, limit: int = 1_000_000) -> Path:
    folder = root / "class/powercap" / zone
    put(folder / "name", name)
    put(folder / "max_energy_range_uj", limit)
    return put(folder / "energy_uj", energy)


def rail(root: Path, channel: int, label: str, millivolts: int, milliamperes: int) -> None:
    folder = root / "class/hwmon/hwmon3"
    put(folder / "name", "ina3221")
    put(folder / f"in{channel}_label", label)
    put(folder / f"in{channel}_input", millivolts)
    put(folder / f"curr{channel}_input", milliamperes)


class TestRapl:
    def test_packages_and_memory_are_added_and_parts_of_a_package_are_not(self, tmp_path: Path) -> None:
        rapl(tmp_path, "intel-rapl:0", "package-0", 0)
        rapl(tmp_path, "intel-rapl:0:0", "core", 0)
        rapl(tmp_path, "intel-rapl:0:1", "dram", 0)
        rapl(tmp_path, "intel-rapl:1", "psys", 0)
        sensors, said = find_sensors(tmp_path)
        assert [sensor.name for sensor in sensors] == ["RAPL package-0", "RAPL dram"]
        assert said == "energy from RAPL package-0, RAPL dram"

    def test_counts_microjoules_across_a_wrap(self, tmp_path: Path) -> None:
        counter = rapl(tmp_path, "intel-rapl:0", "package-0", 900_000)
        (sensor,), _ = find_sensors(tmp_path)
        sensor.start(0.0)
        put(counter, 950_000)
        assert sensor.joules_since(1.0) == pytest.approx(0.05)
        put(counter, 20_000)
        assert sensor.joules_since(2.0) == pytest.approx(0.07)

    def test_a_counter_for_root_alone_is_said_to_be_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rapl(tmp_path, "intel-rapl:0", "package-0", 0)
        read = Path.read_text

        def refuse(path: Path, *arguments: object, **options: object) -> str:
            if path.name == "energy_uj":  # a mode of 0400 means nothing to the root that tests may run as
                raise PermissionError(13, "Permission denied")
            return read(path, *arguments, **options)

        monkeypatch.setattr(Path, "read_text", refuse)
        sensors, said = find_sensors(tmp_path)
        assert not sensors
        assert said == "no electric energy was measured: RAPL package-0 can be read by root alone"

    def test_a_counter_whose_range_is_no_number_is_none(self, tmp_path: Path) -> None:
        rapl(tmp_path, "intel-rapl:0", "package-0", 0)
        put(tmp_path / "class/powercap/intel-rapl:0/max_energy_range_uj", "?")
        rapl(tmp_path, "intel-rapl:1", "package-1", 0)
        sensors, said = find_sensors(tmp_path)
        assert len(sensors) == 1 and said == "energy from RAPL package-1"


class TestRails:
    def test_power_is_integrated_over_time(self, tmp_path: Path) -> None:
        rail(tmp_path, 1, "VDD_CPU_CV", 5000, 1000)
        (sensor,), said = find_sensors(tmp_path)
        assert said == "energy from rail VDD_CPU_CV"
        sensor.start(10.0)
        rail(tmp_path, 1, "VDD_CPU_CV", 5000, 3000)
        assert sensor.joules_since(12.0) == pytest.approx(0.5 * (5 + 15) * 2)

    def test_the_boards_input_stands_for_all_rails(self, tmp_path: Path) -> None:
        rail(tmp_path, 1, "VDD_IN", 5000, 1000)
        rail(tmp_path, 2, "VDD_CPU_GPU_CV", 5000, 400)
        sensors, _ = find_sensors(tmp_path)
        assert [sensor.name for sensor in sensors] == ["rail VDD_IN"]

    def test_rails_that_have_no_input_in_common_are_added(self, tmp_path: Path) -> None:
        rail(tmp_path, 1, "VDD_GPU_SOC", 5000, 1000)
        rail(tmp_path, 2, "VDD_CPU_CV", 5000, 400)
        assert len(find_sensors(tmp_path)[0]) == 2

    def test_microwatts_are_read_where_the_driver_gives_them(self, tmp_path: Path) -> None:
        folder = tmp_path / "class/hwmon/hwmon0"
        put(folder / "name", "ina226")
        put(folder / "power1_input", 2_500_000)
        (sensor,), _ = find_sensors(tmp_path)
        sensor.start(0.0)
        assert sensor.joules_since(2.0) == pytest.approx(5.0)

    def test_milliwatts_of_older_kernels(self, tmp_path: Path) -> None:
        folder = tmp_path / "bus/i2c/drivers/ina3221x/6-0040/iio:device0"
        put(folder / "in_power0_input", 4000)
        put(folder / "rail_name_0", "POM_5V_IN")
        (sensor,), said = find_sensors(tmp_path)
        assert said == "energy from rail POM_5V_IN"
        sensor.start(0.0)
        assert sensor.joules_since(0.5) == pytest.approx(2.0)

    def test_other_hardware_monitors_are_left_alone(self, tmp_path: Path) -> None:
        folder = tmp_path / "class/hwmon/hwmon0"
        put(folder / "name", "coretemp")
        put(folder / "curr1_input", 1)
        put(folder / "in1_input", 1)
        assert find_sensors(tmp_path)[0] == []


def test_a_device_without_sensors_says_so(tmp_path: Path) -> None:
    sensors, said = find_sensors(tmp_path)
    assert not sensors
    assert said == "no electric energy was measured: this device has neither RAPL counters nor INA power rails"


class TestMeter:
    def test_adds_up_while_work_is_done(self, tmp_path: Path) -> None:
        counter = rapl(tmp_path, "intel-rapl:0", "package-0", 0)
        rapl(tmp_path, "intel-rapl:1", "package-1", 5)
        sensors, _ = find_sensors(tmp_path)
        with PowerMeter(sensors, interval=0.002) as meter:
            for value in range(100_000, 1_000_000, 100_000):
                put(counter.with_suffix(".new"), value).replace(counter)  # never half-written
                time.sleep(0.005)
        reading = meter.reading()
        assert reading.joules == pytest.approx(0.9)
        assert reading.seconds >= 0.045
        assert reading.watts == pytest.approx(0.9 / reading.seconds)
        assert reading.sensors == ("RAPL package-0", "RAPL package-1")

    def test_a_sensor_that_goes_away_is_an_error(self, tmp_path: Path) -> None:
        counter = rapl(tmp_path, "intel-rapl:0", "package-0", 0)
        sensors, _ = find_sensors(tmp_path)
        with PowerMeter(sensors, interval=0.001) as meter:
            counter.unlink()
            time.sleep(0.02)
        with pytest.raises(SensorError, match="RAPL package-0 could not be read: .*energy_uj"):
            meter.reading()

    @pytest.mark.parametrize(("text", "said"), [(b"", "got ''"), (b"off", "got 'off'"), (b"\xff\xfe", "can't decode")])
    def test_what_is_no_number_for_a_while_is_an_error(self, text: bytes, said: str, tmp_path: Path) -> None:
        """Nothing says how often the counter began again in between, so the number at the end will not do."""
        counter = rapl(tmp_path, "intel-rapl:0", "package-0", 1000)
        sensors, _ = find_sensors(tmp_path)
        with PowerMeter(sensors, interval=0.001) as meter:
            counter.write_bytes(text)
            meter._thread.join(5.0)  # it ends at the first failure
            put(counter, 5000)
        with pytest.raises(SensorError, match=f"RAPL package-0 could not be read: .*{said}") as caught:
            meter.reading()
        assert isinstance(caught.value.__cause__, ValueError)

    def test_a_sensor_that_cannot_be_read_at_the_start(self, tmp_path: Path) -> None:
        counter = rapl(tmp_path, "intel-rapl:0", "package-0", 0)
        sensors, _ = find_sensors(tmp_path)
        put(counter, "")
        with pytest.raises(SensorError, match="expected a whole number, got ''"), PowerMeter(sensors):
            pass
