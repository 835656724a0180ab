"""What `ebm-run bench` measured on this device, kept for `load` to choose by.

One JSON file for each device and bundle, in the user's cache folder. The device is what `device.describe_device` says of it,
with the versions of the libraries: after an update, or on another board, the measurements are of another device.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .bundle import Bundle
from .device import describe_device, toolchain
from .replaced_file import replacing

__all__ = ["Kept", "fingerprint", "keep_measurements", "kept_measurements"]


class Kept(NamedTuple):
    """Measurements of one bundle.

    Attributes:
        date: when they were made, YYYY-MM-DD.
        rows: as `bench.time_bundle` returns them.
    """

    date: str
    rows: list[dict[str, Any]]


def fingerprint() -> str:
    """Returns 16 hexadecimal digits that stand for this device and its libraries."""
    return _digest([describe_device(), toolchain()])


def keep_measurements(bundle: Bundle, rows: Sequence[dict[str, Any]]) -> Path | None:
    """Keeps measurements in place of earlier ones; returns the file, or None where there is no folder that can be written to."""
    folder = _folder()
    if folder is None:
        return None
    path = folder / _name(bundle)
    said = {
        "date": datetime.date.today().isoformat(),
        "device": describe_device(),
        "toolchain": toolchain(),
        "bundle": str(bundle.path),
        "rows": list(rows),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write((json.dumps(said, indent=1) + "\n").encode())
    except OSError:
        return None
    return path


def kept_measurements(bundle: Bundle) -> Kept | None:
    """Returns what was measured here; None where nothing was, or where the file cannot be read."""
    folder = _folder()
    try:
        if folder is None or not folder.is_dir():  # the usual case, and describing a device takes milliseconds
            return None
        said = json.loads((folder / _name(bundle)).read_text(encoding="utf-8"))
        rows = [row for row in said["rows"] if _fits(row)]
        return Kept(str(said["date"]), rows) if rows else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _fits(row: Any) -> bool:
    """Whether a row has what `choice` reads, with values that bench can have measured; a user may have edited the file."""
    if not isinstance(row, dict):
        return False
    file, batch, threads, fused, time = (row.get(name) for name in ("file", "batch", "threads", "fused", "median ms"))
    return (
        isinstance(file, str)
        and _whole(batch, 1)
        and "threads" in row
        and (threads is None or _whole(threads, 1))
        and _whole(fused, 0)
        and isinstance(time, float | int)
        and not isinstance(time, bool)
        and 0 < time <= sys.float_info.max
    )


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _name(bundle: Bundle) -> str:
    files = sorted(artifact.sha256 for artifact in bundle.artifacts)
    return f"{fingerprint()}-{_digest(files)}.json"


def _folder() -> Path | None:
    """Where measurements are kept; None where the user has no home, as in some containers and services."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "ebm-export" / "bench"


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
