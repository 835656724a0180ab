"""What a process may use of the machine."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from .errors import UsageError

__all__ = ["limit_memory", "use_cpus"]


def use_cpus(text: str) -> None:
    """Keeps this process, and every thread that it has or starts from now on, on some CPUs.

    Args:
        text: numbers and ranges, such as "0-3,6".

    Raises:
        UsageError: the text has another form, names a CPU that this process may not use, or the system has no such setting.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("--cpus: this system cannot keep a process on some CPUs; Linux can")
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise UsageError(f"--cpus: expected numbers and ranges, such as 0-3,6, got {text!r}")
    there = os.sched_getaffinity(0)
    wanted: set[int] = set()
    for part in text.split(","):
        ends = [int(number) for number in part.split("-")]
        first, last = ends[0], ends[-1]
        if last < first:
            raise UsageError(f"--cpus {text}: the range {part} ends before it begins; expected {last}-{first}")
        if last > max(there) or not there.issuperset(range(first, last + 1)):
            raise UsageError(f"--cpus {text}: this process may use {', '.join(map(str, sorted(there)))}")
        wanted |= set(range(first, last + 1))
    for task in _tasks():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(task, wanted)


def _tasks() -> list[int]:
    """The numbers of this process's threads, such as OpenBLAS starts where numpy is imported; the setting is one of a thread."""
    try:
        return [int(task.name) for task in Path("/proc/self/task").iterdir()]
    except FileNotFoundError:
        return [0]  # this thread alone


def limit_memory(text: str) -> None:
    """Makes this process fail rather than take more memory: what it writes to, not files that it maps.

    Args:
        text: bytes, or a number with K, M or G (of 1024) behind it.

    Raises:
        UsageError: the text has another form, or the system has no such setting.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)i?B?", text)
    if found is None:
        raise UsageError(
            f"--memory-limit: expected bytes, or a number with K, M or G behind it, such as 512M, got {text!r}"
        )
    size = int(float(found[1]) * 2 ** {"": 0, "K": 10, "M": 20, "G": 30}[found[2]])
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"--memory-limit {text}: this system does not take it ({error})") from error
