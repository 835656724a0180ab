"""The kernels, built for the CPU once."""

from __future__ import annotations

import pytest

from .emulator import Emulator


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def emulator(_built: Emulator) -> Emulator:
    _built.order = 0
    return _built
