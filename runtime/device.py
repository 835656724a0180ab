"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["GPU", "GPUS_JOINED", "PROCESSOR", "describe_device", "own_threads", "toolchain", "usable_cores"]

PROCESSOR = ("processor", "instructions")
"""What of `describe_device` decides which kernels a library takes, and with them the order of its sums."""

GPU = "GPU"
"""What decides that of an engine which computes on one; see `gpu.py`."""

GPUS_JOINED = "; "
"""Between the models of several cards."""

_PACKAGES = ("ebm-export", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "scipy")

_DECIDING = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16",
)  # fmt: skip


def describe_device(root: str | Path = "/") -> dict[str, str]:
    """Returns what is known of this machine, by name: board, processor, instructions, cores, memory, GPUs, system, Python.

    Cores and memory are what this process may use: its CPU affinity, and the limits of its control group.

    Args:
        root: where the system's files are.
    """
    root = Path(root)
    said = {
        "board": _text(root / "proc/device-tree/model").strip("\0 \n"),
        "processor": _processor(root),
        "instructions": " ".join(_instructions(root)),
        "cores": _cores(root),
        "memory": _memory(root),
        "GPUs": GPUS_JOINED.join(_gpus(root)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return {name: value for name, value in said.items() if value}


def toolchain() -> dict[str, str]:
    """Returns the installed version of every package that has a say in the numbers."""
    from importlib import metadata  # reads mail headers: a tenth of the time that the whole runtime takes to import

    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def own_threads(library: str) -> str:
    """Returns words for the number of threads that a library picks, which it does not tell but which follows from the cores."""
    return f"{library}'s own on {usable_cores()} cores"


def _processor(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor()


def _instructions(root: Path) -> list[str]:
    """Those of the processor's instructions that decide which precision is fast."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            there = set(value.split())
            return [flag for flag in _DECIDING if flag in there]
    return []


def _cores(root: Path) -> str:
    usable = usable_cores()
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(quota) < usable * int(period):
        return f"{int(quota) / int(period):g} of {usable}"
    return str(usable)


def _memory(root: Path) -> str:
    total = 0
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 2**10
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and (not total or int(limit) < total):
        return f"{int(limit) / 2**30:.1f} GiB" + (f" of {total / 2**30:.1f} GiB" if total else "")
    return f"{total / 2**30:.1f} GiB" if total else ""


def _gpus(root: Path) -> list[str]:
    """NVIDIA GPUs, from the driver's files: asking its tool takes longer than a first sample."""
    found = []
    for card in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in _text(card).splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                found.append(value.strip())
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
