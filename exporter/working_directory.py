"""Imports from the working directory, where a user's own code is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["importing_from_here"]


@contextmanager
def importing_from_here() -> Iterator[str]:
    """Inside of it, modules in the working directory can be imported; gives that folder.

    `python -m` has it on its path, an installed command has not.
    """
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield here
    finally:
        if added:
            sys.path.remove(here)
