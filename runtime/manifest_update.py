"""Changes to the manifest of a bundle that is in use: an engine was built or verified on this device."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
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
    with _sole_manifest(folder) as manifest:
        manifest["artifacts"] = [old for old in manifest["artifacts"] if old["path"] != entry["path"]] + [entry]
        _write(folder, manifest)


def set_status(folder: Path, looked_at: Mapping[str, str], status: str) -> bool:
    """Sets the status of artifacts that were looked at together, unless another process has replaced one of them since.

    Args:
        folder: the bundle.
        looked_at: the sha256 of each, by its path.
        status: for all of them.

    Returns:
        Whether they are still those; where one is not, no status changes.
    """
    with _sole_manifest(folder) as manifest:
        if not looked_at.items() <= {entry["path"]: entry["sha256"] for entry in manifest["artifacts"]}.items():
            return False
        for entry in manifest["artifacts"]:
            if entry["path"] in looked_at:
                entry["status"] = status
        _write(folder, manifest)
    return True


@contextlib.contextmanager
def _sole_manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """Gives the manifest as it is now, which nobody else changes in the block: no writer loses what another one wrote."""
    with sole_user("manifest", folder / MANIFEST, _PATIENCE):
        yield json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes it; a reader sees the old manifest or the new one."""
    with replacing(folder / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=1) + "\n").encode())
