"""What several files of tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ebm_export.exporter import calibrated


@pytest.fixture(scope="module")
def fewer_states() -> Iterator[None]:
    """A quarter of the states and chains serve for nets this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated, "_CHAINS", 256)
        patch.setattr(calibrated, "_STATES", (256, 256))
        yield
