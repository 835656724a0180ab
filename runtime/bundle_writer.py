"""Writes a bundle so that a killed export leaves nothing half-written behind.

Everything is written to a folder beside the bundle, `.NAME.writing-PID-..`, which is renamed into place at the end.
Where an older bundle is replaced it is first renamed to `.NAME.replaced-PID-..`, renamed back if the next step fails,
and removed once the new one is in place. A process that is killed leaves such a folder behind; the next export of
the same bundle finds that its process is gone and removes it, or, if the kill came between the two renames, puts
the older bundle back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .bundle import MANIFEST
from .errors import EbmExportError, UsageError
from .file_hash import sha256_of

__all__ = ["check_replaceable", "write_manifest", "writing_bundle"]


@contextlib.contextmanager
def writing_bundle(path: str | Path, force: bool = False) -> Iterator[Path]:
    """Gives a folder to write a bundle's files into, which becomes the bundle when the block ends without an error.

    Args:
        path: the bundle; its parent folders are made.
        force: replace an existing bundle. Anything else that stands at `path` is never replaced.

    Yields:
        An empty folder. The block must leave a manifest in it.

    Raises:
        UsageError: something stands at `path` that may not be replaced, or the folder cannot be made.
        EbmExportError: the disk is full.
    """
    path = Path(path).absolute()  # a later chdir must not lead the renames astray
    _clean_up_after_the_dead(path)
    check_replaceable(path, force)
    folder = _sibling(path, "writing")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"the bundle {path} cannot be written: {error.strerror} ({error.filename})") from error
    try:
        yield folder
        assert (folder / MANIFEST).is_file(), "a bundle needs its manifest"
        check_replaceable(path, force)  # something may have been put there since
        _move_into_place(folder, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EbmExportError(
            f"no space left on the disk for the bundle {path}; nothing half-written was left behind"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json, adding the sha256 of every file that is no artifact's under "files".

    Call it last: files written later are not listed.

    Args:
        folder: where the bundle's other files are.
        manifest: the entries as `manifest.Manifest` reads them; "files" is set here.
    """
    listed = {name for artifact in manifest["artifacts"] for name in (artifact["path"], *artifact.get("files", {}))}
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in listed and entry.name != MANIFEST)
    entries = {**manifest, "files": {name: sha256_of(folder / name) for name in others}}
    (folder / MANIFEST).write_text(json.dumps(entries, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def check_replaceable(path: Path, force: bool) -> None:
    """Refuses a place for a bundle where something stands that is not to be replaced; arguments and error as for `writing_bundle`."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / MANIFEST).is_file():
        raise UsageError(f"{path} exists and is not a bundle, so it is not replaced: choose another --out")
    if not force:
        raise UsageError(
            f"the bundle {path} exists: choose another --out, or replace it with --force (in Python force=True)"
        )


def _move_into_place(folder: Path, path: Path) -> None:
    """Renames the finished folder; an older bundle stands aside meanwhile and comes back if that fails."""
    if not (path / MANIFEST).is_file():
        folder.rename(path)  # nothing there, or an empty folder, which a rename replaces
        return
    aside = _sibling(path, "replaced")
    path.rename(aside)
    try:
        folder.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


_MADE: set[tuple[int, str]] = set()
"""Names of the folders that this process made, with its number: a process that is forked off made none of them."""


def _sibling(path: Path, purpose: str) -> Path:
    name = f".{path.name}.{purpose}-{os.getpid()}-{secrets.token_hex(4)}"
    _MADE.add((os.getpid(), name))
    return path.with_name(name)


def _clean_up_after_the_dead(path: Path) -> None:
    """Removes what killed exports of the same bundle left; restores an older bundle that was being replaced."""
    if not path.parent.is_dir():
        return
    pattern = re.compile(re.escape(f".{path.name}.") + r"(writing|replaced)-(\d+)-[0-9a-f]+")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match is None or _is_in_use(entry.name, int(match[2])):
            continue
        if match[1] == "replaced" and not path.exists():
            entry.rename(path)
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _is_in_use(name: str, pid: int) -> bool:
    """Whether the process that made a folder lives.

    Its number may have come again: where each export has a container of its own, all have the same one.
    """
    return (pid, name) in _MADE if pid == os.getpid() else _is_alive(pid)


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine has the number; elsewhere than on POSIX always True, so nothing is removed."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # larger than any process number
        return False
    except PermissionError:
        pass
    return True
