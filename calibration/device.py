"""What a comparison was made on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["describe_device", "toolchain"]

_PACKAGES = ("ebm-export", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "scipy")


def describe_device(root: str | Path = "/") -> dict[str, str]:
    """Returns what is known of this machine, by name: board, processor, cores, memory, system, Python.

    Args:
        root: where the system's files are.
    """
    root = Path(root)
    said = {
        "board": _text(root / "proc/device-tree/model").strip("\0 \n"),
        "processor": _processor(root),
        "cores": str(os.cpu_count() or ""),
        "memory": _memory(root),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return {name: value for name, value in said.items() if value}


def toolchain() -> dict[str, str]:
    """Returns the installed version of every package that has a say in the numbers."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor()


def _memory(root: Path) -> str:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return f"{int(line.split()[1]) / 2**20:.1f} GiB"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
