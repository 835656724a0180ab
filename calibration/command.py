"""What `ebm-compare` does: compares, and writes the report into a folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime.arguments import check_folder
from ..runtime.errors import MissingBackend
from ..runtime.replaced_file import replacing
from .compare_options import CompareOptions

__all__ = ["run_compare"]

_PACKAGES = {
    "arviz_stats": "arviz-stats",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "jinja2": "jinja2",
    "PIL": "pillow",
}
"""What a comparison imports, and the package that has it."""


def run_compare(
    options: CompareOptions, out: Path, progress: Callable[[str, int, int], None] | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compares, and writes report.json and report.html; samples are kept in the folder `samples` beside them.

    Args:
        options: what to compare.
        out: folder to write to; made if need be.
        progress: called with (what is being done, done, in all).

    Returns:
        The contents of report.json, and a row of the terminal's table for each engine.

    Raises:
        MissingBackend: a package of the extra `calibration` is not installed.
        UsageError: an option cannot be right, or `out` is a file or may not be written to.
        LoadError: a file cannot be read, or there is no FP32 engine.
    """
    _check_packages()
    from .compare import compare
    from .report import render_report, table

    cache = out / "samples"
    for folder in (out, cache):  # before the chains, which take long
        check_folder("--out", folder)
    found = compare(dataclasses.replace(options, cache=cache), progress)
    entries = found.to_dict()
    page = render_report(found)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "report.json", json.dumps(entries, indent=1, allow_nan=False))
    _write(out / "report.html", page)
    return entries, table(found)


def _write(path: Path, text: str) -> None:
    """Replaces a file as a whole, so that no reader meets half of it."""
    with replacing(path) as file:
        file.write(text.encode())


def _check_packages() -> None:
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingBackend(
            f"comparing engines needs what is not installed ({', '.join(missing)}): pip install 'ebm-export[calibration]'"
        )
