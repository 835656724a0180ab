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

_BUSY = "is being changed by another process: wait until that one is done, and run this again"


def enter_artifact(folder: Path, entry: dict[str, Any], content: bytes) -> None:
    """Adds an artifact's file and its entry, in place of those of the same path.

    After an error both are the old ones: the manifest is written before the file takes its place, and takes its own after that.
    """
    with _sole_manifest(folder) as manifest:
        manifest["artifacts"] = [old for old in manifest["artifacts"] if old["path"] != entry["path"]] + [entry]
        with _written(folder, manifest), replacing(folder / entry["path"]) as file:
            file.write(content)


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
        with _written(folder, manifest):
            pass
    return True


@contextlib.contextmanager
def _sole_manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """Gives the manifest as it is now, which nobody else changes in the block: no writer loses what another one wrote."""
    with sole_user("manifest", folder / MANIFEST, _PATIENCE, busy=_BUSY):
        yield json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


@contextlib.contextmanager
def _written(folder: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Writes it; readers see the old manifest until the block has ended without an error."""
    with replacing(folder / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=1) + "\n").encode())
        file.flush()  # a full disk is one now
        yield
