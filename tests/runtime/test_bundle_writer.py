"""Writing bundles: all or nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_export.runtime import EbmExportError, UsageError
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle
from ebm_export.runtime.file_hash import sha256_of


def write(path: Path, text: str = "new", force: bool = False) -> None:
    with writing_bundle(path, force) as folder:
        (folder / "score.onnx").write_text(text)
        (folder / "manifest.json").write_text("{}")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "m.ebm"
    with writing_bundle(path) as folder:
        assert not path.exists()
        assert folder.parent == path.parent and str(os.getpid()) in folder.name
        (folder / "manifest.json").write_text("{}")
    assert names(path.parent) == ["m.ebm"]
    assert names(path) == ["manifest.json"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing_bundle(tmp_path / "m.ebm") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_an_error_leaves_the_older_bundle(tmp_path: Path) -> None:
    write(tmp_path / "m.ebm", "old")
    with pytest.raises(KeyboardInterrupt), writing_bundle(tmp_path / "m.ebm", force=True):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["m.ebm"]
    assert (tmp_path / "m.ebm" / "score.onnx").read_text() == "old"


def test_an_existing_bundle_needs_force(tmp_path: Path) -> None:
    write(tmp_path / "m.ebm", "old")
    with pytest.raises(
        UsageError,
        match=r"the bundle .*m\.ebm exists: choose another --out, or replace it with --force .in Python force=True",
    ):
        write(tmp_path / "m.ebm")
    write(tmp_path / "m.ebm", "new", force=True)
    assert names(tmp_path) == ["m.ebm"]
    assert (tmp_path / "m.ebm" / "score.onnx").read_text() == "new"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").touch()
    (tmp_path / "file").touch()
    for name in ("thesis", "file"):
        with pytest.raises(UsageError, match=f"{name} exists and is not a bundle, so it is not replaced"):
            write(tmp_path / name, force=force)
    assert names(tmp_path / "thesis") == ["chapter1"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    write(tmp_path)
    assert names(tmp_path) == ["manifest.json", "score.onnx"]


def test_the_older_bundle_comes_back_when_the_new_one_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m.ebm", "old")
    rename = Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if ".writing-" in self.name:
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(PermissionError):
        write(tmp_path / "m.ebm", force=True)
    assert names(tmp_path) == ["m.ebm"]
    assert (tmp_path / "m.ebm" / "score.onnx").read_text() == "old"


def test_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(EbmExportError, match="no space left on the disk for the bundle .*nothing half-written") as error,
        writing_bundle(tmp_path / "m.ebm"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(error.value.__cause__, OSError)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        write(tmp_path / "file" / "m.ebm")


class TestKilled:
    def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(self, tmp_path: Path) -> None:
        script = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from ebm_export.runtime.bundle_writer import writing_bundle\n"
            "with writing_bundle(Path(sys.argv[1])) as folder:\n"
            "    (folder / 'score.onnx').write_text('half')\n"
            "    print('ready', flush=True)\n"
            "    time.sleep(60)\n"
        )
        path = tmp_path / "m.ebm"
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            # While it lives its folder is not touched by another export of the same bundle.
            (left,) = names(tmp_path)
            assert f".writing-{child.pid}-" in left
            write(path)
            assert names(tmp_path) == [left, "m.ebm"]
            child.send_signal(signal.SIGKILL)
        assert names(path) == ["manifest.json", "score.onnx"]
        write(path, force=True)
        assert names(tmp_path) == ["m.ebm"]

    def test_a_kill_between_the_two_renames_is_mended(self, tmp_path: Path) -> None:
        write(tmp_path / "m.ebm", "old")
        (tmp_path / "m.ebm").rename(tmp_path / f".m.ebm.replaced-{dead_pid()}-0123abcd")
        with pytest.raises(UsageError, match="exists: choose another"):
            write(tmp_path / "m.ebm")
        assert names(tmp_path) == ["m.ebm"]
        assert (tmp_path / "m.ebm" / "score.onnx").read_text() == "old"

    def test_a_killed_process_had_the_number_of_this_one(self, tmp_path: Path) -> None:
        """As in containers, where each export has the same."""
        write(tmp_path / "m.ebm", "old")
        (tmp_path / "m.ebm").rename(tmp_path / f".m.ebm.replaced-{os.getpid()}-0123abcd")
        (tmp_path / f".m.ebm.writing-{os.getpid()}-0123abcd").mkdir()
        with pytest.raises(ZeroDivisionError), writing_bundle(tmp_path / "m.ebm", force=True):
            raise ZeroDivisionError
        assert names(tmp_path) == ["m.ebm"]
        assert (tmp_path / "m.ebm" / "score.onnx").read_text() == "old"

    def test_a_folder_that_this_process_writes_to_stays(self, tmp_path: Path) -> None:
        with writing_bundle(tmp_path / "m.ebm", force=True) as folder:
            (folder / "manifest.json").write_text("{}")
            write(tmp_path / "m.ebm", "another thread's")
            assert names(tmp_path) == [folder.name, "m.ebm"]
        assert names(tmp_path) == ["m.ebm"]

    def test_folders_of_other_bundles_stay(self, tmp_path: Path) -> None:
        other = tmp_path / f".other.ebm.writing-{dead_pid()}-0123abcd"
        other.mkdir()
        write(tmp_path / "m.ebm")
        assert other.exists()


def test_manifest_lists_every_other_file(tmp_path: Path) -> None:
    for name in ("score.xml", "score.bin", "golden.npz", "calibration.json"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path, {"artifacts": [{"path": "score.xml", "files": {"score.bin": "0"}}], "schema_version": 1})
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["files"] == {name: sha256_of(tmp_path / name) for name in ("calibration.json", "golden.npz")}
    assert written["schema_version"] == 1
