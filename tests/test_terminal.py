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


@pytest.mark.parametrize(
    ("total", "said"),
    [(1059, "0:59 left"), (4599, "59:59 left"), (4600, "1:00:00 left"), (94_784, "26:03:04 left")],
)
def test_hours_are_told_as_hours(
    total: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A day was 1440:00."""
    clock = iter([1000.0, 2000.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress() as tell:
        tell("sampling", 0, total)
        tell("sampling", 1000, total)
    assert capsys.readouterr().err.splitlines()[1].endswith(said)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(10.0, "1.6/s, 1:30 left"), (64.0, "4.0 s each, 9:36 left"), (0.5, None), (1.0, "16/s, 0:09 left")],
)
def test_slow_work_has_a_rate_too(
    seconds: float, said: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was 0/s."""
    clock = iter([1000.0, 1000.0 + seconds])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(terminal, "_TELL_SECONDS", 0.0)
    with terminal.progress() as tell:
        tell("a trajectory", 0, 160)
        tell("a trajectory", 16, 160)
    assert capsys.readouterr().err.splitlines()[1:] == ([] if said is None else [f"a trajectory: 10%, {said}"])


def test_the_same_work_once_more_has_a_clock_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second round of ten minutes after one of ten was said to go at half the speed."""
    clock = iter([1000.0, 1600.0, 1600.0, 1900.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress() as tell:
        for done in (0, 12, 0, 6):
            tell("comparing", done, 12)
    assert capsys.readouterr().err.splitlines() == ["comparing", "comparing: 50%, 50.0 s each, 5:00 left"]
