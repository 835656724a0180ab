"""The log of a search, which is also what it resumes from."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from ..runtime.replaced_file import replacing

__all__ = ["SearchLog"]

_LOG = logging.getLogger("ebm_export")


class SearchLog:
    """A file with one JSON object in each line: what the search is of, then everything that it measured and tried.

    Every line is on the disk before the search goes on, so a kill loses at most the trial that was running. A line cut
    short by a kill is dropped. A file of another search (another model, other rules) took hours to make: it is kept under another
    name, a warning says what differs, and the log begins anew.

    Args:
        path: the file; its folder exists. None keeps the log in memory.
        subject: what the search is of, as JSON can hold it; trials are only reused for the same.

    Attributes:
        trials: what was measured and tried before, by key.
    """

    def __init__(self, path: Path | None, subject: dict[str, Any]) -> None:
        self._path = path
        self.trials: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        subject = json.loads(json.dumps(subject))  # with what JSON turns into something else, such as tuples
        lines = _read(path)
        if lines and lines[0] == {"subject": subject}:
            self.trials = {line["key"]: line for line in lines[1:] if "key" in line}
        elif path.is_file() and path.stat().st_size:
            _put_aside(path, lines, subject)
        self._write([{"subject": subject}, *self.trials.values()])

    def add(self, key: str, trial: dict[str, Any]) -> None:
        """Appends a trial."""
        self.trials[key] = {"key": key, **trial}
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.trials[key]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _write(self, lines: list[dict[str, Any]]) -> None:
        assert self._path is not None
        with replacing(self._path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def _put_aside(path: Path, lines: list[dict[str, Any]], subject: dict[str, Any]) -> None:
    """Renames a log that does not hold for this search, and says why; one in which nothing was tried yet may go."""
    before = lines[0].get("subject") if lines else None
    if not isinstance(before, dict):
        why = "it is no log of a search"
    elif len(lines) > 1:
        why = f"what it was tried with is not what there is now: {', '.join(_differing(before, subject))}"
    else:
        return
    names = (path.with_name(f"{path.name}.old{'' if number == 1 else number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    _LOG.warning("the search begins anew and does not go on from %s: %s; the file is kept as %s", path, why, aside.name)


_SHORT = 60
"""Characters up to which a value is shown; checksums and lists of layers are longer."""


def _differing(before: dict[str, Any], now: dict[str, Any], within: str = "") -> Iterator[str]:
    """What differs between two subjects, by name, with short values."""
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{within}{key} ")
        elif key not in before or key not in now or old != new:
            said = f"{json.dumps(old)}, now {json.dumps(new)}"
            yield f"{within}{key}" + (f" ({said})" if len(said) <= _SHORT else "")


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines that can be read, up to the first that cannot."""
    lines: list[dict[str, Any]] = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines
