from __future__ import annotations

import json
from pathlib import Path

import pytest

from ebm_export.calibration.search_log import SearchLog

SUBJECT = {"graph": "abc", "batch": [1, 8], "device": {"cores": "2"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search.jsonl"


def filled(path: Path) -> SearchLog:
    log = SearchLog(path, SUBJECT)
    log.add("time a", {"ms": 1.5})
    log.add("gate a", {"passed": False, "reason": "score gain 0.02 – over", "ratios": {"energy": float("inf")}})
    return log


def test_every_line_is_an_object(path: Path) -> None:
    filled(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("key") for line in lines] == [None, "time a", "gate a"]
    assert lines[0] == {"subject": SUBJECT}


def test_is_read_again(path: Path) -> None:
    wanted = filled(path).trials
    assert SearchLog(path, SUBJECT).trials == wanted
    assert SearchLog(path, SUBJECT).trials == wanted  # and opening changed nothing


def test_a_subject_with_tuples_is_the_same_subject(path: Path) -> None:
    """JSON has lists only."""
    SearchLog(path, {"batch": (1, 8)}).add("a", {})
    assert SearchLog(path, {"batch": (1, 8)}).trials == {"a": {"key": "a"}}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**SUBJECT, "graph": "abd"}, 'graph ("abc", now "abd")'),
        ({**SUBJECT, "graph": "d" * 64}, "graph;"),  # a checksum tells nobody anything
        ({}, 'graph ("abc", now null), batch ([1, 8], now null), device ({"cores": "2"}, now null)'),
        ({**SUBJECT, "more": 1}, "more (null, now 1)"),
        ({**SUBJECT, "device": {"cores": "4"}}, 'device cores ("2", now "4")'),
    ],
)
def test_another_subject_begins_anew_and_says_what_differs(
    path: Path, caplog: pytest.LogCaptureFixture, other: dict[str, object], said: str
) -> None:
    filled(path)
    before = path.read_bytes()
    assert SearchLog(path, other).trials == {}
    assert path.with_name("search.jsonl.old").read_bytes() == before
    (message,) = caplog.messages
    assert str(path) in message and f": {said}" in message and message.endswith("kept as search.jsonl.old")
    caplog.clear()
    assert SearchLog(path, SUBJECT).trials == {}  # nothing was tried with the other
    assert not caplog.messages and len(list(path.parent.iterdir())) == 2


def test_what_was_kept_is_never_written_over(path: Path) -> None:
    for turn in range(3):
        SearchLog(path, {"turn": turn}).add("a", {"turn": turn})
    assert {file.name: json.loads(file.read_text().splitlines()[1])["turn"] for file in path.parent.iterdir()} == {
        "search.jsonl.old": 0, "search.jsonl.old2": 1, "search.jsonl": 2
    }  # fmt: skip


def test_a_kill_at_any_byte_loses_no_more_than_the_last_line(path: Path) -> None:
    filled(path)
    whole = path.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        log = SearchLog(path, SUBJECT)
        assert len(log.trials) == max(0, sum(cut >= end for end in ends) - 1), cut
        log.add("next", {"ms": 2})
        assert SearchLog(path, SUBJECT).trials == log.trials


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"[1, 2]\n", b"null\n", b'{"key": "a"}\n'])
def test_a_file_that_is_no_log_begins_anew(path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    path.write_bytes(content)
    assert SearchLog(path, SUBJECT).trials == {}
    assert json.loads(path.read_text()) == {"subject": SUBJECT}
    kept = path.with_name("search.jsonl.old")
    assert (kept.read_bytes() if kept.exists() else b"") == content  # somebody wrote it for something
    assert ["no log of a search" in message for message in caplog.messages] == ([True] if content else [])


def test_without_a_file(tmp_path: Path) -> None:
    log = SearchLog(None, SUBJECT)
    log.add("a", {"ms": 1})
    assert log.trials == {"a": {"key": "a", "ms": 1}}
    assert not list(tmp_path.iterdir())
