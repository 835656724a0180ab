"""The file that benchmarks of one machine write into, each its own part."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

from ebm_export.runtime.device import describe_device, toolchain

__all__ = ["results_of_this_machine"]


def results_of_this_machine(path: Path | None) -> dict[str, Any]:
    """What a file has, or if there is none what a new one begins with: the machine and the versions.

    A file of another machine, or of other versions, ends the program: its results are not to be lost, nor to stand beside those of this one.
    """
    result: dict[str, Any] = {
        "device": describe_device(),
        "toolchain": toolchain() | {name: importlib.metadata.version(name) for name in ("torch", "torchebm", "ebmkit")},
    }
    if path is not None and path.exists():
        before = dict(json.loads(path.read_text(encoding="utf-8")))
        if "ebmkit" not in before["toolchain"]:  # it was not kept at first; the file is gone on with, and stays without
            del result["toolchain"]["ebmkit"]
        for part, now in result.items():
            if before[part] != now:
                sys.exit(
                    f"{path} has results with another {part}, {before[part]} and not {now}: give --out another name"
                )
        return before
    return result
