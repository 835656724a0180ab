"""Changes to a manifest that more than one process makes."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ebm_export.runtime import UsageError, manifest_update
from ebm_export.runtime.file_lock import sole_user
from ebm_export.runtime.manifest_update import enter_artifact, set_status
from ebm_export.runtime.replaced_file import replacing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    entries = [{"path": name, "sha256": name * 64, "status": "built, not run"} for name in ("a", "b")]
    (tmp_path / "manifest.json").write_text(json.dumps({"artifacts": entries}))
    return tmp_path


def read(folder: Path) -> dict[str, Any]:
    return {entry["path"]: entry for entry in json.loads((folder / "manifest.json").read_text())["artifacts"]}


def test_what_another_one_writes_meanwhile_is_kept(folder: Path) -> None:
    """Whoever comes second reads what the first has written."""
    with sole_user("manifest", folder / "manifest.json"):
        mine = json.loads((folder / "manifest.json").read_text())
        second = Thread(target=set_status, args=(folder, {"b": "b" * 64}, "verified"))
        second.start()
        second.join(0.3)
        assert second.is_alive()
        mine["artifacts"][0]["status"] = "verified"
        (folder / "manifest.json").write_text(json.dumps(mine))
    second.join(10)
    assert [entry["status"] for entry in read(folder).values()] == ["verified", "verified"]


def test_many_lose_nothing(folder: Path) -> None:
    def enter(first: int) -> None:
        for number in range(first, first + 10):
            enter_artifact(folder, {"path": str(number), "status": "built, not run"}, b"plan")

    writers = [Thread(target=enter, args=(first,)) for first in range(0, 40, 10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(read(folder)) == {"a", "b", *map(str, range(40))}
    assert {entry.name for entry in folder.iterdir()} == {"manifest.json", *map(str, range(40))}


def test_one_that_never_ends_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_update, "_PATIENCE", 0.05)
    with (
        sole_user("manifest", folder / "manifest.json"),
        pytest.raises(
            UsageError,
            match=r"^manifest: .*manifest\.json is being changed by another process: wait until .* run this again$",
        ),
    ):
        set_status(folder, {"a": "a" * 64}, "verified")
    assert set_status(folder, {"a": "a" * 64}, "verified")
    assert read(folder)["a"]["status"] == "verified"


def test_a_status_is_that_of_what_was_looked_at(folder: Path) -> None:
    """All or nothing: what was compared together is run together."""
    looked_at = {"a": "a" * 64, "b": "b" * 64}
    enter_artifact(folder, {"path": "b", "sha256": "c" * 64, "status": "built, not run"}, b"plan")
    before = (folder / "manifest.json").read_text()
    assert not set_status(folder, looked_at, "verified")
    assert (folder / "manifest.json").read_text() == before
    assert set_status(folder, looked_at | {"b": "c" * 64}, "verified")
    assert [entry["status"] for entry in read(folder).values()] == ["verified", "verified"]


@pytest.mark.parametrize("fails", ["a", "manifest.json"])
def test_a_file_and_its_entry_are_of_one_kind_after_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A full disk, whichever of the two it is that has no room."""
    (folder / "a").write_bytes(b"the old plan")
    before = (folder / "manifest.json").read_text()

    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Any]:
        with replacing(path) as file:
            if path.name == fails:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield file

    monkeypatch.setattr(manifest_update, "replacing", full)
    with pytest.raises(OSError, match="No space left"):
        enter_artifact(folder, {"path": "a", "status": "built, not run"}, b"the new plan")
    assert (folder / "a").read_bytes() == b"the old plan"
    assert (folder / "manifest.json").read_text() == before
    monkeypatch.undo()
    enter_artifact(folder, {"path": "a", "status": "built, not run"}, b"the new plan")
    assert (folder / "a").read_bytes() == b"the new plan"
