"""What `ebm-compare` does: compares, and writes the report into a folder."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import MissingBackend, UsageError

__all__ = ["CompareCommand", "run_compare"]

_PACKAGES = {"scipy": "scipy", "sklearn": "scikit-learn", "jinja2": "jinja2", "PIL": "pillow"}
"""What a comparison imports, and the package that has it."""


@dataclass(frozen=True)
class CompareCommand:
    """The options of the command; `compare.CompareOptions` says what each means.

    Attributes:
        out: folder for report.html, report.json and the samples; made if need be.
    """

    bundles: Sequence[Path]
    out: Path
    backends: Sequence[str] = ()
    precisions: Sequence[str] = ()
    candidates: Sequence[str] = ()
    gate: float = 1.25
    smallest_difference: float = 0.1
    chains: int | None = None
    features: str = "pixels"
    data: np.ndarray | None = None
    ood: np.ndarray | None = None
    cond: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    threads: int | None = None
    batches: Sequence[int] = (1, 8)


def run_compare(
    command: CompareCommand, progress: Callable[[str, int, int], None] | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compares, and writes report.json and report.html; samples are kept in the folder `samples` beside them.

    Args:
        command: the options.
        progress: called with (what is being done, done, in all).

    Returns:
        The contents of report.json, and a row of the terminal's table for each engine.

    Raises:
        MissingBackend: a package of the extra `calibration` is not installed.
        UsageError: an option cannot be right, or `out` is a file.
        LoadError: a file cannot be read, or there is no FP32 engine.
    """
    _check_packages()
    from .compare import CompareOptions, compare
    from .report import render_report, table

    if command.out.exists() and not command.out.is_dir():
        raise UsageError(f"--out: {command.out} is a file; give a folder")
    settings = {name: value for name, value in vars(command).items() if name != "out"}
    found = compare(CompareOptions(**settings, cache=command.out / "samples"), progress)
    entries = found.to_dict()
    page = render_report(found)
    command.out.mkdir(parents=True, exist_ok=True)
    _write(command.out / "report.json", json.dumps(entries, indent=1, allow_nan=False))
    _write(command.out / "report.html", page)
    return entries, table(found)


def _write(path: Path, text: str) -> None:
    """Replaces a file as a whole, so that no reader meets half of it."""
    half = path.with_name(f"{path.name}.part")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def _check_packages() -> None:
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingBackend(
            f"comparing engines needs {', '.join(missing)}, and not all of it is installed: "
            "pip install 'ebm-export[calibration]'"
        )
