"""Changes to the manifest of a bundle that is in use: an engine was built or verified on this device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .bundle import MANIFEST
from .file_lock import sole_user
from .replaced_file import replacing

__all__ = ["enter_artifact", "set_status"]

_PATIENCE = 10.0
"""Seconds for which another process that changes the manifest is waited for, which takes it milliseconds."""


def enter_artifact(folder: Path, entry: dict[str, Any]) -> None:
    """Adds an artifact's entry, in place of one of the same path."""
    _update(folder, lambda entries: [old for old in entries if old["path"] != entry["path"]] + [entry])


def set_status(folder: Path, path: str, status: str) -> None:
    """Sets the status of the artifact of this path."""
    _update(folder, lambda entries: [old | {"status": status} if old["path"] == path else old for old in entries])


def _update(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Rewrites the list of artifacts; a reader sees the old manifest or the new one, and no writer loses what another one wrote."""
    with sole_user("manifest", folder / MANIFEST, _PATIENCE):
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest["artifacts"] = change(manifest["artifacts"])
        with replacing(folder / MANIFEST) as file:
            file.write((json.dumps(manifest, indent=1) + "\n").encode())
