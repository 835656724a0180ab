from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebm_export.calibration import search as module
from ebm_export.calibration.search import Assignment, Found, search
from ebm_export.calibration.search_log import SearchLog

FLOAT = 10.0
LAYERS = 9  # rungs: 0, 1, 2, 4 and 8 layers out of INT8
STEPS = 32  # tails: 2, 4, 8 and 16 steps


class Killed(BaseException):
    pass


class Table:
    """A machine on which everything is known: a layer out of INT8 costs 0.5 ms, and in float32 0.2 ms more, BF16 saves 1 ms, tails
    are float32.

    Args:
        least: layers that must be out of INT8 for each precision of the rest; above `LAYERS` nothing passes.
        tail: fewest float32 steps that pass with all layers in INT8.
        kill: number of the trial at which the process dies.
        wide: (layers out of INT8, of these in float32) that pass with BF16 as well.
    """

    def __init__(
        self, least: dict[str, int], tail: int = 99, kill: int | None = None, wide: tuple[int, int] = (99, 99)
    ) -> None:
        self.asked: list[str] = []
        self._least, self._tail, self._kill, self._wide = least, tail, kill, wide

    @staticmethod
    def cost(assignment: Assignment) -> float:
        own = 3.0 + 0.5 * assignment.kept - (assignment.other == "bf16") + 0.2 * assignment.wide
        return ((STEPS - assignment.tail) * own + assignment.tail * FLOAT) / STEPS

    def passes(self, assignment: Assignment) -> bool:
        if assignment.tail:
            return assignment.tail >= self._tail
        enough = assignment.kept >= self._wide[0] and assignment.wide >= self._wide[1]
        return enough or assignment.kept >= self._least[assignment.other]

    def milliseconds(self, assignment: Assignment) -> float:
        self._count(f"time {assignment.key}")
        return self.cost(assignment)

    def verdict(self, assignment: Assignment) -> dict[str, Any]:
        self._count(f"gate {assignment.key}")
        assert self.cost(assignment) < FLOAT, "slower than float32"
        return {"passed": self.passes(assignment), "reason": f"reason of {assignment.key}", "ratios": {"energy": 1.1}}

    def _count(self, key: str) -> None:
        if self._kill is not None and len(self.asked) == self._kill:
            raise Killed
        self.asked.append(key)


def find(table: Table, log: SearchLog | None = None, **options: Any) -> Found:
    settings = {"float_milliseconds": FLOAT, **options}
    return search(LAYERS, ["fp32", "bf16"], STEPS, table, log or SearchLog(None, {}), **settings)


def fastest(table: Table) -> float:
    """By trying every rung."""
    rungs = [Assignment(kept, other) for kept in (0, 1, 2, 4, 8) for other in ("fp32", "bf16")]
    rungs += [Assignment(0, "bf16", tail) for tail in (2, 4, 8, 16)]
    return min(
        (table.cost(rung) for rung in rungs if table.passes(rung) and table.cost(rung) < FLOAT), default=float("inf")
    )


TABLES = [({"fp32": a, "bf16": b}, tail) for a in (0, 1, 3, 8, 9) for b in (0, 2, 5, 9) for tail in (1, 3, 16, 99)]


@pytest.mark.parametrize(("least", "tail"), TABLES)
def test_finds_the_fastest_that_passes(least: dict[str, int], tail: int) -> None:
    table = Table(least, tail)
    found = find(table)
    assert found.complete
    assert found.milliseconds == fastest(table)
    if found.assignment is None:
        assert found.reason.startswith("reason of ")
    else:
        assert table.passes(found.assignment)
        assert table.cost(found.assignment) == found.milliseconds
        assert found.reason == "the fastest that passed the gate"
        assert found.verdict is not None and found.verdict["reason"] == f"reason of {found.assignment.key}"


@pytest.mark.parametrize(("least", "tail"), TABLES)
def test_judges_nothing_that_is_slower_than_the_best_so_far(least: dict[str, int], tail: int) -> None:
    best = FLOAT

    class Strict(Table):
        def verdict(self, assignment: Assignment) -> dict[str, Any]:
            nonlocal best
            assert self.cost(assignment) < best
            answer = super().verdict(assignment)
            if answer["passed"]:
                best = self.cost(assignment)
            return answer

    table = Strict(least, tail)
    find(table)
    assert len(set(table.asked)) == len(table.asked)


def test_what_one_hopes_for_is_judged_first() -> None:
    table = Table({"fp32": 0, "bf16": 0})
    assert find(table).assignment == Assignment(0, "bf16")
    assert [key for key in table.asked if key.startswith("gate")] == ["gate kept=0 other=bf16 tail=0 wide=0"]


def test_nothing_is_faster_than_float32() -> None:
    table = Table({"fp32": 0, "bf16": 0})
    found = find(table, float_milliseconds=1.0)
    assert found == Found(None, float("inf"), "nothing was faster than float32", True)
    assert not [key for key in table.asked if key.startswith("gate")]


def test_one_layer_and_one_step() -> None:
    table = Table({"fp32": 0})
    found = search(1, ["fp32"], 1, table, SearchLog(None, {}), float_milliseconds=FLOAT)
    assert found.assignment == Assignment(0, "fp32")


@pytest.mark.parametrize(("need", "found"), [((1, 1), (1, 1)), ((3, 1), (4, 1)), ((4, 2), (4, 2)), ((4, 3), (4, 4))])
def test_the_most_harmful_layers_in_float32_beside_bf16(need: tuple[int, int], found: tuple[int, int]) -> None:
    """Where BF16 is too coarse for some layers, these alone are in float32: three precisions in one graph."""
    table = Table({"fp32": 9, "bf16": 9}, wide=need)
    kept, wide = found
    assert find(table).assignment == Assignment(kept, "bf16", wide=wide)
    assert table.passes(Assignment(kept, "bf16", wide=wide))


def test_float32_is_taken_where_it_spares_layers_from_leaving_int8() -> None:
    table = Table({"fp32": 9, "bf16": 8}, wide=(1, 1))
    assert find(table).assignment == Assignment(1, "bf16", wide=1)


class TestTime:
    def test_nothing_is_begun_after_it(self) -> None:
        table = Table({"fp32": 0, "bf16": 0})
        found = find(table, seconds=0.0)
        assert not table.asked
        assert found == Found(None, float("inf"), "time ran out before anything was judged", False)

    @pytest.mark.parametrize("trials", range(1, 12))
    def test_keeps_the_best_until_then(self, monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
        """A clock that goes one second for each trial."""
        table = Table({"fp32": 1, "bf16": 5}, tail=3)
        monkeypatch.setattr(module.time, "monotonic", lambda: float(len(table.asked)))
        log = SearchLog(None, {})
        found = find(table, log, seconds=float(trials))
        judged = [
            key.removeprefix("gate ") for key in table.asked if key.startswith("gate") and log.trials[key]["passed"]
        ]
        assert len(table.asked) == min(trials, len(table.asked))
        if found.assignment is None:
            assert not judged
            assert found.reason.startswith("time ran out")
        else:
            assert found.assignment.key == judged[-1]
        # Going on from the log with no limit ends where an unhurried search does.
        assert find(table, log) == find(Table({"fp32": 1, "bf16": 5}, tail=3))


class TestLog:
    def test_holds_everything_that_was_asked(self) -> None:
        table, log = Table({"fp32": 1, "bf16": 5}, tail=3), SearchLog(None, {})
        find(table, log)
        assert list(log.trials) == table.asked
        judged = next(line for key, line in log.trials.items() if key.startswith("gate"))
        assert judged.keys() == {"key", "passed", "reason", "ratios"}

    @pytest.mark.parametrize(("least", "tail"), [({"fp32": 1, "bf16": 5}, 3), ({"fp32": 9, "bf16": 9}, 99)])
    @pytest.mark.parametrize("damage", [None, lambda line: line[: len(line) // 2]])
    def test_killed_anywhere_it_ends_with_the_same_choice(
        self, tmp_path: Path, least: dict[str, int], tail: int, damage: Callable[[bytes], bytes] | None
    ) -> None:
        whole = Table(least, tail)
        wanted = find(whole)
        for kill in range(len(whole.asked)):
            path = tmp_path / f"{kill}.jsonl"
            first, second = Table(least, tail, kill), Table(least, tail)
            with pytest.raises(Killed):
                find(first, SearchLog(path, {"of": "this"}))
            kept = first.asked
            if damage is not None:  # the kill came while the last line was written
                lines = path.read_bytes().splitlines(keepends=True)
                path.write_bytes(b"".join(lines[:-1]) + damage(lines[-1]))
                kept = kept[:-1]
            assert find(second, SearchLog(path, {"of": "this"})) == wanted
            assert kept + second.asked == whole.asked

    def test_of_another_search_is_not_used(self, tmp_path: Path) -> None:
        find(Table({"fp32": 0, "bf16": 0}), SearchLog(tmp_path / "log", {"of": "this"}))
        table = Table({"fp32": 9, "bf16": 9})
        assert find(table, SearchLog(tmp_path / "log", {"of": "that"})).assignment is None
        assert table.asked


def test_progress_names_the_trial() -> None:
    seen: list[tuple[str, int, int]] = []
    table = Table({"fp32": 0, "bf16": 0})
    find(table, progress=lambda *now: seen.append(now))
    assert seen == [(f"searching: {key}", index, 0) for index, key in enumerate(table.asked)]
