"""The log of a search, which is also what it resumes from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..runtime.replaced_file import replacing

__all__ = ["SearchLog"]


class SearchLog:
    """A file with one JSON object in each line: what the search is of, then everything that it tried.

    Every line is on the disk before the search goes on, so a kill loses at most the trial that was running. A line cut
    short by a kill is dropped. A file of another search (another model, other rules) is begun anew.

    Args:
        path: the file; its folder exists. None keeps the log in memory.
        subject: what the search is of, as JSON can hold it; trials are only reused for the same.

    Attributes:
        trials: what was tried before, by key.
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
