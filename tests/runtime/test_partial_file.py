"""Files that are to take another one's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_export.runtime import partial_file
from ebm_export.runtime.partial_file import partial_of

KILLED = """
import os, signal, sys
from pathlib import Path
from ebm_export.runtime.partial_file import partial_of
with partial_of(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    print(partial.name, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_it_is_removed_unless_it_is_renamed(tmp_path: Path) -> None:
    with partial_of(tmp_path / "a") as partial:
        assert partial.read_bytes() == b"" and partial.parent == tmp_path
    assert names(tmp_path) == []
    with partial_of(tmp_path / "a") as partial:
        partial.replace(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/a'$"), partial_of(tmp_path / "nowhere" / "a"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_what_a_killed_process_left_is_removed_and_what_is_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    (tmp_path / "a.0123abcd.partial.txt").write_text("the user's")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        left = child.stdout.readline().strip()
        with partial_of(path) as partial:
            assert names(tmp_path) == sorted([left, partial.name, "a.0123abcd.partial.txt"])
        child.stdin.write("\n")
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / left).read_bytes() == b"half"
    with partial_of(path) as partial:
        assert names(tmp_path) == sorted([partial.name, "a.0123abcd.partial.txt"])


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says there which file was left, so all stay."""
    monkeypatch.setattr(partial_file, "try_lock", lambda descriptor: None)
    (tmp_path / "a.0123abcd.partial").write_text("")
    with partial_of(tmp_path / "a") as partial:
        partial.replace(tmp_path / "a")
    assert names(tmp_path) == ["a", "a.0123abcd.partial"]
