"""Files that one run at a time uses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_export.runtime import UsageError, file_lock
from ebm_export.runtime.file_lock import sole_user

HOLDS = """
import sys, time
from pathlib import Path
from ebm_export.runtime.file_lock import sole_user
with sole_user("checkpoint", Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_another_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (tmp_path / "link").symlink_to("run")
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for name in ("run", "link"):
            with (
                pytest.raises(UsageError, match=f"^checkpoint: .*{name} is in use by a run that has not ended: wait"),
                sole_user("checkpoint", tmp_path / name),
            ):
                pass
        with sole_user("checkpoint", tmp_path / "other"):
            pass
        child.send_signal(signal.SIGKILL)
    with sole_user("checkpoint", path):
        assert (tmp_path / ".run.lock").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_long_names_have_locks_of_their_own(tmp_path: Path) -> None:
    for name in ("a" * 255, "a" * 254 + "b", "é" * 127):
        with sole_user("checkpoint", tmp_path / name), pytest.raises(UsageError, match="in use"):
            with sole_user("checkpoint", tmp_path / ("a" * 253)):
                pass
            with sole_user("checkpoint", tmp_path / name):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "try_lock", lambda descriptor: None)
    with sole_user("checkpoint", tmp_path / "run"), sole_user("checkpoint", tmp_path / "run"):
        assert list(tmp_path.iterdir()) == []
