"""What the commands show: results on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .runtime.json_values import json_values

__all__ = ["LOG", "print_json", "progress", "table"]

LOG = Console(stderr=True, highlight=False)
OUT = Console(highlight=False)
_TELL_SECONDS = 20.0
"""Time between two lines about the same work, where stderr is no terminal."""


def table(title: str, rows: list[dict[str, Any]], notes: str | None = None, below: str = "") -> None:
    """Prints rows as a table; the column `notes`, whose text is long, is printed below it instead, and `below` before that."""
    made = Table(title=escape(title), title_justify="left")
    columns = [column for column in (rows[0] if rows else {}) if column != notes]
    for column in columns:
        made.add_column(column, no_wrap=True)
    for row in rows:
        made.add_row(*(_cell(row[column]) for column in columns))
    # A terminal cuts what is too wide for it; a file or a pipe takes any width.
    console = OUT if OUT.is_terminal else Console(highlight=False, width=200)
    console.print(made)
    if below:
        console.print(below, markup=False, soft_wrap=True)
    by_text: dict[str, list[str]] = {}
    for row in rows:
        if notes is not None and row[notes]:
            by_text.setdefault(row[notes], []).append(row["file"])
    for text, files in by_text.items():
        console.print(f"{', '.join(files)}: {text}", markup=False, soft_wrap=True)


def print_json(result: Any) -> None:
    """Prints a result on one line; a number that JSON does not have (NaN, infinity) is null."""
    print(json.dumps(json_values(result), allow_nan=False))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6f}" if 0.99 < value < 1 else f"{value:.3g}"
    return escape(str(value))


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows (what, done, total) on stderr: a bar with its rate on a terminal, lines elsewhere."""
    begun, last, there, reached = 0.0, "", 0, 0
    with ExitStack() as stack:
        bar = None
        if LOG.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            bar = stack.enter_context(Progress(*columns, TimeElapsedColumn(), console=LOG, transient=True))
            task = bar.add_task("", total=None, rate="")
        told = 0.0

        def tell(what: str, done: int, total: int) -> None:
            nonlocal begun, last, there, reached, told
            now = time.monotonic()
            if what != last or done < reached:  # the same work may be there again for something else
                # Work that is gone on with is told of first at the place where it was left.
                begun, there = now, done
                told = told if what == last else now
                if bar is None and what != last:
                    LOG.print(what, markup=False, soft_wrap=True)
            last, reached = what, done
            rate = _rate(done, total, now - begun, there)
            if bar is not None:
                bar.update(task, description=what, completed=done, total=total or None, rate=rate)
            elif rate and now - told >= _TELL_SECONDS:
                told = now
                LOG.print(f"{what}: {done / total:.0%}, {rate}", markup=False, soft_wrap=True)

        yield tell


def _rate(done: int, total: int, seconds: float, there: int) -> str:
    """How fast something goes and how long it will take, once that can be said; `there` was done before these seconds."""
    made = done - there
    if not made > 0 or not done < total or seconds < 1:
        return ""
    left = round(seconds * (total - done) / made)
    speed = made / seconds
    said = f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
    return f"{said}, {_clock(left)} left"


def _clock(seconds: int) -> str:
    """Minutes and seconds, from an hour on hours too."""
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}:{seconds:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
