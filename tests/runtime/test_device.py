from __future__ import annotations

from pathlib import Path

import numpy as np

from ebm_export.runtime.device import describe_device, toolchain


def test_reads_a_boards_files(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("NVIDIA Jetson Orin NX\0")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\n")
    found = describe_device(tmp_path)
    assert found["board"] == "NVIDIA Jetson Orin NX"
    assert found["processor"] == "ARMv8 Processor rev 1 (v8l)"
    assert found["memory"] == "16.0 GiB"


def test_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    found = describe_device(tmp_path)
    assert "board" not in found and "memory" not in found
    assert found["python"]


def test_versions_are_those_installed() -> None:
    assert toolchain()["numpy"] == np.__version__


def test_what_the_process_may_use(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information").write_text(
        "Model: \t\t NVIDIA L4\nIRQ:   \t\t 42\n"
    )
    (tmp_path / "proc/cpuinfo").write_text("Features\t: fp asimd evtstrm asimddp i8mm\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\n")
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{2**31}\n")
    found = describe_device(tmp_path)
    assert found["instructions"] == "asimd asimddp i8mm"
    assert found["cores"].startswith("0.5 of ")
    assert found["memory"] == "2.0 GiB of 16.0 GiB"
    assert found["GPUs"] == "NVIDIA L4"
