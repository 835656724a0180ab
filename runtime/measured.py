"""What `ebm-run bench` measured on this device, kept for `load` to choose by.

One JSON file for each device and bundle, in the user's cache folder. The device is what `device.describe_device` says of it, but for
the system's release, with the versions of the libraries: after an update of these, on another board, or on fewer of its cores, the
measurements are of another device.
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

__all__ = ["Kept", "fingerprint", "keep_measurements", "kept_measurements", "measured_on_other_cores"]

_NO_SAY = ("system",)
"""What of a device changes without another being the fastest: its kernel's release, with every update."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a file raises that is none of ours; a user may have edited it."""


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
    return _digest(_device())


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
        return _kept(json.loads((folder / _name(bundle)).read_text(encoding="utf-8")))
    except _UNREADABLE:
        return None


def measured_on_other_cores(bundle: Bundle) -> str:
    """Says when and on how many cores of this device something was measured, where it was not on as many as there are now; else empty."""
    folder = _folder()
    try:
        if folder is None or not folder.is_dir():
            return ""
        files = sorted(folder.glob(f"*-{_digest_of(bundle)}.json"))
    except OSError:
        return ""
    here, libraries = _device()
    cores = here.pop("cores", None)
    found = []
    for file in files:
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            kept, device = _kept(said), _deciding(said["device"])
            there = device.pop("cores", None)
            if kept is not None and there != cores and [device, said["toolchain"]] == [here, libraries]:
                found.append((kept.date, str(there)))
        except _UNREADABLE:
            continue
    if not found:
        return ""
    date, there = max(found)
    return f"measured by ebm-run bench on {date}, but with {there} cores, where this process may use {cores}: ebm-run bench has --cpus too"


def _kept(said: Any) -> Kept | None:
    rows = [row for row in said["rows"] if _fits(row)]
    return Kept(str(said["date"]), rows) if rows else None


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
    return f"{fingerprint()}-{_digest_of(bundle)}.json"


def _digest_of(bundle: Bundle) -> str:
    return _digest(sorted(artifact.sha256 for artifact in bundle.artifacts))


def _device() -> list[dict[str, str]]:
    """What the times are of: the device and the versions of its libraries."""
    return [_deciding(describe_device()), toolchain()]


def _deciding(device: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in device.items() if name not in _NO_SAY}


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
