"""What holds for every test."""

from __future__ import annotations

import os
import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def _no_measurements_of_this_device(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What somebody measured here must not choose the engines of tests, nor tests those of anybody."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """Seeds torch where a test uses it; tests of the runtime alone must not need it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
