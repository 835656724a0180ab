"""What the commands show on the way."""

from __future__ import annotations

import pytest

from ebm_export import terminal


@pytest.mark.parametrize(
    ("there", "said"), [(0, "sampling: 50%, 4,500/s, 1:40 left"), (300_000, "sampling: 50%, 1,500/s, 5:00 left")]
)
def test_what_a_run_that_goes_on_found_is_not_its_own_speed(
    there: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([1000.0, 1100.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress() as tell:
        tell("sampling", there, 900_000)
        tell("sampling", 450_000, 900_000)
    assert capsys.readouterr().err.splitlines() == ["sampling", said]
