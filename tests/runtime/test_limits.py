"""What a process may use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_export.runtime.errors import UsageError
from ebm_export.runtime.limits import limit_memory, use_cpus

from .tiny_bundle import write_bundle

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of Linux")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since limits stay."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@LINUX
@pytest.mark.native
def test_keeps_to_cpus() -> None:
    first = min(os.sched_getaffinity(0))
    code = f"from ebm_export.runtime.limits import use_cpus; import os; use_cpus('{first}'); print(os.sched_getaffinity(0))"
    assert run(code).stdout.strip() == str({first})


@LINUX
@pytest.mark.native
def test_threads_that_were_there_before_are_kept_to_them_too() -> None:
    """OpenBLAS starts its own where numpy is imported."""
    first = min(os.sched_getaffinity(0))
    code = (
        "from ebm_export.runtime.limits import use_cpus; import os, threading, time\n"
        "before = threading.Thread(target=time.sleep, args=[1]); before.start()\n"
        f"use_cpus('{first}'); print({{tuple(os.sched_getaffinity(int(task))) for task in os.listdir('/proc/self/task')}})"
    )
    assert run(code).stdout.strip() == str({(first,)})


@LINUX
@pytest.mark.native
@pytest.mark.parametrize("threads", [None, 2])
def test_threads_of_onnxruntime_are_kept_to_them_too(tmp_path: Path, threads: int | None) -> None:
    path = write_bundle(tmp_path / "m.ebm")
    first = min(os.sched_getaffinity(0))
    code = (
        f"from ebm_export.runtime.limits import use_cpus; import os; use_cpus('{first}')\n"
        f"from ebm_export.runtime import load\nwith load({str(path)!r}, threads={threads}) as ebm:\n  ebm.sample(64)\n"
        "  print({tuple(os.sched_getaffinity(int(task))) for task in os.listdir('/proc/self/task')})"
    )
    assert run(code).stdout.strip() == str({(first,)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "expected numbers and ranges"),
        ("1-", "expected numbers"),
        ("4000", "this process may use 0"),
        ("0-999999999999", "this process may use 0"),
        ("0,5-3", "the range 5-3 ends before it begins; expected 3-5"),
    ],
)
@LINUX
def test_cpus_that_are_not_there(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"--cpus.*{said}"):
        use_cpus(text)


@LINUX
@pytest.mark.native
def test_fails_rather_than_take_more() -> None:
    code = "from ebm_export.runtime.limits import limit_memory; limit_memory('{}'); x = bytearray(200 * 2**20); print(len(x))"
    assert run(code.format("100M")).stderr.strip().endswith("MemoryError")
    assert run(code.format("1G")).stdout.strip() == str(200 * 2**20)


@pytest.mark.parametrize("text", ["", "much", "-1", "1T"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"such as 512M, got {text!r}")):
        limit_memory(text)
