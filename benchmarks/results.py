"""The file that benchmarks of one machine write into, each its own part."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from ebm_export.runtime.device import describe_device, toolchain

__all__ = ["results_of_this_machine"]


def results_of_this_machine(path: Path | None) -> dict[str, Any]:
    """What a file has of this machine with these versions; else a result that says which these are, and no more."""
    result: dict[str, Any] = {
        "device": describe_device(),
        "toolchain": toolchain() | {name: importlib.metadata.version(name) for name in ("torch", "torchebm")},
    }
    if path is not None and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if (before["device"], before["toolchain"]) == (result["device"], result["toolchain"]):
            return dict(before)
    return result
