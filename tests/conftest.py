"""What holds for every test."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """Seeds torch where a test uses it; tests of the runtime alone must not need it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
