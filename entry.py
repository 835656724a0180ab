"""What the installed commands begin with, and how Ctrl-C ends them.

Nothing that takes time is imported outside of `_until_stopped`: the imports of a command are most of its first second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ebm_compare", "ebm_export", "ebm_run"]

_STOPPED = 130
"""The exit code after Ctrl-C, 128 and the number of the signal."""


def ebm_export() -> None:
    """Entry point of ebm-export."""
    with _until_stopped():
        from .cli import ebm_export as run

        run()


def ebm_compare() -> None:
    """Entry point of ebm-compare."""
    with _until_stopped():
        from .cli import ebm_compare as run

        run()


def ebm_run() -> None:
    """Entry point of ebm-run."""
    with _until_stopped():
        from .cli import ebm_run as run

        run()


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Ends the process in one word at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:  # before or after the command itself
        print("stopped", file=sys.stderr)
        sys.exit(_STOPPED)
    except SystemExit as end:
        if end.code == _STOPPED:  # inside of it typer turns Ctrl-C into this, without a word
            print("stopped", file=sys.stderr)
        raise
