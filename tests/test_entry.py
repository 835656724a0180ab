"""What the installed commands begin with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ("ebm_export", "ebm_run", "ebm_compare")


def test_the_installed_commands_begin_there() -> None:
    scripts = re.findall(r'^(ebm-\w+) = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert scripts == [(name.replace("_", "-"), f"ebm_export.entry:{name}") for name in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("library", ["numpy", "typer", "rich"])
def test_a_command_that_is_stopped_during_its_imports_says_so(name: str, library: str) -> None:
    code = (
        "import sys\n"
        "class Stopped:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {library!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stopped())\n"
        f"from ebm_export.entry import {name} as main\n"  # which imports none of them
        "main()"
    )
    run = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "stopped\n")
