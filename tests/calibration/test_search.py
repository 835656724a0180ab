from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ebm_export.calibration import deadline as clock
from ebm_export.calibration.deadline import Deadline
from ebm_export.calibration.search import Assignment, Found, search
from ebm_export.calibration.search_log import SearchLog

FLOAT = 10.0
ENDS = {"fp32": FLOAT, "bf16": 6.0}
LAYERS = 9
STEPS = 32


class Killed(BaseException):
    pass


class Table:
    """A machine on which everything is known: a layer out of INT8 costs 0.5 ms, and in float32 0.2 ms more, BF16 saves 1 ms.

    Args:
        least: layers that must be out of INT8 for each precision of the rest; above `LAYERS` nothing passes.
        tail: fewest float32 steps that pass, whatever comes before them.
        kill: number of the trial at which the process dies.
        wide: (layers out of INT8, of these in float32) that pass with BF16 as well.
        low_tail: fewest BF16 steps that pass where as many layers as in `after` are out of INT8.
        after: see `low_tail`.
        coarse: whether BF16 is too coarse for a layer at any step: a tail in it undoes what `wide` does.
    """

    def __init__(
        self,
        least: dict[str, int],
        tail: int = 99,
        kill: int | None = None,
        wide: tuple[int, int] = (99, 99),
        low_tail: int = 99,
        after: int = 0,
        coarse: bool = False,
    ) -> None:
        self.asked: list[str] = []
        self._least, self._tail, self._kill, self._wide = least, tail, kill, wide
        self._low_tail, self._after, self._coarse = low_tail, after, coarse

    def head(self, assignment: Assignment) -> float:
        return 3.0 + 0.5 * assignment.kept - (assignment.other == "bf16") + 0.2 * assignment.wide

    def cost(self, assignment: Assignment) -> float:
        last = ENDS[assignment.end] if assignment.tail else 0.0
        return ((STEPS - assignment.tail) * self.head(assignment) + assignment.tail * last) / STEPS

    def passes(self, assignment: Assignment) -> bool:
        enough = assignment.kept >= self._wide[0] and assignment.wide >= self._wide[1]
        enough &= not (self._coarse and assignment.tail and assignment.end == "bf16")
        enough |= assignment.kept >= self._least[assignment.other]
        enough |= assignment.tail >= self._tail and assignment.end == "fp32"
        return enough or (assignment.tail >= self._low_tail and assignment.kept >= self._after)

    def milliseconds(self, assignment: Assignment) -> float:
        self._count(f"time {assignment.key}")
        assert not assignment.tail
        return self.head(assignment)

    def verdict(self, assignment: Assignment) -> dict[str, Any]:
        self._count(f"gate {assignment.key}")
        assert self.cost(assignment) < FLOAT, "slower than float32"
        return {"passed": self.passes(assignment), "reason": f"reason of {assignment.key}", "ratios": {"energy": 1.1}}

    def _count(self, key: str) -> None:
        if self._kill is not None and len(self.asked) == self._kill:
            raise Killed
        self.asked.append(key)


class Drawn(Table):
    """A machine drawn by chance: each layer out of INT8 or in float32, and each step of a tail, makes good some of what is lacking."""

    def __init__(self, seed: int) -> None:
        super().__init__({})
        draw = random.Random(seed).uniform
        self._lacks, self._rest = draw(0.5, 4.0), {"fp32": draw(0.0, 1.0), "bf16": draw(-0.5, 1.0)}
        self._step = {"fp32": draw(0.0, 0.5)}
        self._step["bf16"] = draw(0.0, 1.0) * self._step["fp32"]
        self._kept, self._in_float = draw(0.0, 0.5), draw(0.0, 0.3)
        self._base, self._more = {"fp32": draw(3.0, 5.0), "bf16": draw(2.0, 5.0)}, (draw(0.01, 0.9), draw(0.01, 0.5))

    def head(self, assignment: Assignment) -> float:
        more = self._more[0] * assignment.kept + self._more[1] * assignment.wide
        return self._base[assignment.other] + more

    def passes(self, assignment: Assignment) -> bool:
        good = self._rest[assignment.other] + self._kept * assignment.kept + self._in_float * assignment.wide
        return good + self._step[assignment.end] * assignment.tail >= self._lacks


class Layered(Table):
    """A machine where each layer, and the rest of the graph, errs at each step by what it runs in there, and not by anything else."""

    def __init__(self, seed: int) -> None:
        super().__init__({})
        draw = random.Random(seed).uniform
        # Of some layers BF16 errs nearly as much as INT8, of others next to nothing.
        harm = sorted((draw(0.0, 1.0) ** 3 for _ in range(LAYERS)), reverse=True)
        self._errs = {"int8": harm, "bf16": [draw(0.0, 1.0) ** 4 * each for each in harm], "fp32": [0.0] * LAYERS}
        self._rest = {"bf16": draw(0.0, 0.2), "fp32": 0.0}
        growth = draw(0.0, 0.3)
        weights = [math.exp(growth * step) for step in range(STEPS)]
        self._weights = [weight / sum(weights) for weight in weights]
        self._limit = draw(0.0, 0.7) * sum(harm)
        self._base, self._more = {"fp32": draw(3.0, 5.0), "bf16": draw(2.0, 5.0)}, (draw(0.01, 0.9), draw(0.01, 0.5))

    def head(self, assignment: Assignment) -> float:
        more = self._more[0] * assignment.kept + self._more[1] * assignment.wide
        return self._base[assignment.other] + more

    def passes(self, assignment: Assignment) -> bool:
        kept, wide, other = assignment.kept, assignment.wide, assignment.other
        runs = ["fp32"] * wide + [other] * (kept - wide) + ["int8"] * (LAYERS - kept)
        first = self._rest[other] + sum(self._errs[type_][layer] for layer, type_ in enumerate(runs))
        last = self._rest[assignment.end] + sum(self._errs[assignment.end])
        turn = STEPS - assignment.tail
        return first * sum(self._weights[:turn]) + last * sum(self._weights[turn:]) <= self._limit


def find(table: Table, log: SearchLog | None = None, **options: Any) -> Found:
    settings = {"float_milliseconds": FLOAT, "ends": ENDS, **options}
    return search(LAYERS, ["fp32", "bf16"], STEPS, table, log or SearchLog(None, {}), **settings)


def fastest(table: Table) -> float:
    """By trying everything that the guide promises to look at, for nine layers and 32 steps.

    The first 0, 1, 2, 4 or 8 layers are out of INT8 with the rest in FP32 or BF16; with BF16 some of these may be in FP32, as many
    as of the same numbers; the last 2, 4, 8 or 16 steps may be in FP32 or BF16.
    """
    numbers, everything = (0, 1, 2, 4, 8), []
    for kept, other, wide in itertools.product(numbers, ("fp32", "bf16"), numbers):
        if wide > kept or (wide and other == "fp32"):
            continue
        everything.append(Assignment(kept, other, wide=wide))
        for tail, end in itertools.product((2, 4, 8, 16), ("fp32", "bf16")):
            everything.append(Assignment(kept, other, tail, wide, end))
    assert len(everything) == (5 + 5 + 10) * (1 + 4 * 2)
    costs = (table.cost(one) for one in everything if table.passes(one))
    return min((cost for cost in costs if cost < FLOAT), default=float("inf"))


TABLES: list[Callable[[], Table]] = [
    functools.partial(Table, {"fp32": a, "bf16": b}, tail)
    for a in (0, 1, 3, 8, 9)
    for b in (0, 2, 5, 9)
    for tail in (1, 3, 16, 99)
]
TABLES += [
    functools.partial(Table, {"fp32": 9, "bf16": b}, tail, low_tail=low, after=after)
    for b in (5, 9)
    for tail in (2, 8)
    for low in (2, 4, 16)
    for after in (0, 1, 4)
]
TABLES += [
    functools.partial(Table, {"fp32": 9, "bf16": b}, tail, wide=wide, coarse=True)
    for b in (8, 9)
    for tail in (2, 8, 99)
    for wide in ((1, 1), (2, 1), (4, 1), (4, 2), (8, 1), (8, 8))
]
TABLES += [functools.partial(made, seed) for made in (Drawn, Layered) for seed in range(60)]


@pytest.mark.parametrize("made", TABLES)
def test_nothing_that_passes_is_three_percent_faster(made: Callable[[], Table]) -> None:
    table = made()
    found = find(table)
    assert found.complete
    if found.assignment is None:
        assert found.reason.startswith("reason of ")
        assert fastest(table) > 0.97 * FLOAT
    else:
        assert table.passes(found.assignment)
        assert table.cost(found.assignment) == found.milliseconds
        assert 0.97 * found.milliseconds <= fastest(table)
        assert found.reason == "the fastest that passed the gate"
        assert found.verdict is not None and found.verdict["reason"] == f"reason of {found.assignment.key}"


@pytest.mark.parametrize("made", TABLES)
def test_judges_few_and_nothing_that_is_slower_than_the_best_so_far(made: Callable[[], Table]) -> None:
    best, judge = FLOAT, Table.verdict
    table = made()

    def verdict(assignment: Assignment) -> dict[str, Any]:
        nonlocal best
        assert table.cost(assignment) <= 0.97 * best
        answer = judge(table, assignment)
        if answer["passed"]:
            best = table.cost(assignment)
        return answer

    table.verdict = verdict  # type: ignore[method-assign]
    find(table)
    assert len(set(table.asked)) == len(table.asked)
    assert sum(key.startswith("gate") for key in table.asked) <= 23  # of 180


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
    found = search(1, ["fp32"], 1, table, SearchLog(None, {}), float_milliseconds=FLOAT, ends=ENDS)
    assert found.assignment == Assignment(0, "fp32")


@pytest.mark.parametrize(("need", "found"), [((1, 1), (1, 1)), ((3, 1), (4, 1)), ((4, 2), (4, 2)), ((4, 3), (4, 4))])
def test_the_most_harmful_layers_in_float32_beside_bf16(need: tuple[int, int], found: tuple[int, int]) -> None:
    """Where BF16 is too coarse for some layers, these alone are in float32: three precisions in one graph."""
    table = Table({"fp32": 9, "bf16": 9}, wide=need)
    kept, wide = found
    assert find(table, ends={}).assignment == Assignment(kept, "bf16", wide=wide)  # no tail would do as well
    assert table.passes(Assignment(kept, "bf16", wide=wide))


def test_a_low_tail_after_the_layers_that_a_float32_tail_would_need_as_well() -> None:
    """Layers kept and a tail together, each too little alone; BF16 serves for its steps, at less time than float32."""
    table = Table({"fp32": 9, "bf16": 8}, tail=16, low_tail=4, after=1)
    assert find(table).assignment == Assignment(1, "bf16", 4, end="bf16")


def test_a_float32_tail_where_a_low_one_does_not_mend() -> None:
    assert find(Table({"fp32": 9, "bf16": 9}, tail=2)).assignment == Assignment(0, "bf16", 2, end="fp32")


def test_layers_in_float32_though_a_low_tail_undoes_them() -> None:
    """Every choice with a BF16 end fails, which says nothing of a chain that has its first layer in float32 to the end."""
    table = Table({"fp32": 9, "bf16": 9}, wide=(4, 1), coarse=True)
    assert find(table).assignment == Assignment(4, "bf16", wide=1)


@pytest.mark.parametrize(
    ("one", "finer", "coarser"),
    [
        (Assignment(2, "bf16"), Assignment(4, "bf16", 2, end="bf16"), True),
        (Assignment(2, "bf16", 2, end="bf16"), Assignment(2, "bf16", 4, end="bf16"), True),
        (Assignment(2, "bf16", 2, end="bf16"), Assignment(2, "bf16", 2, end="fp32"), True),
        (Assignment(2, "bf16", 2, end="bf16"), Assignment(2, "bf16", 4, 1, "fp32"), True),
        (Assignment(2, "bf16", wide=1), Assignment(2, "bf16", 2, 1, "fp32"), True),
        (Assignment(2, "bf16", wide=1), Assignment(2, "bf16", 2, 1, "bf16"), False),  # the first layer loses
        (Assignment(2, "bf16", 2, 1, "bf16"), Assignment(2, "bf16", 4, 1, "bf16"), False),
        (Assignment(2, "bf16", 2, 1, "bf16"), Assignment(4, "bf16", 2, 2, "bf16"), True),  # they end alike
        (Assignment(2, "fp32"), Assignment(2, "fp32", 2, end="bf16"), False),  # the rest of the graph loses
        (Assignment(2, "fp32", 2, end="bf16"), Assignment(4, "fp32", 2, end="bf16"), True),
        (Assignment(2, "fp32", 2, end="bf16"), Assignment(2, "fp32", 4, end="bf16"), False),
        (Assignment(2, "bf16", 2), Assignment(2, "bf16", 4, end="bf16"), False),
        (Assignment(2, "bf16"), Assignment(2, "bf16", 2, end="fp16"), False),  # neither holds all of the other
        (Assignment(2, "bf16", 4, end="bf16"), Assignment(2, "bf16", 2), False),
        (Assignment(2, "bf16"), Assignment(2, "fp32"), False),
    ],
)
def test_coarser_is_what_runs_nothing_in_more(one: Assignment, finer: Assignment, coarser: bool) -> None:
    assert one.is_coarser_than(finer) == coarser
    assert not finer.is_coarser_than(one)
    assert one.is_coarser_than(one) and finer.is_coarser_than(finer)


def test_what_no_engine_can_be_had_of_leaves_the_others() -> None:
    """A finer one may have an engine where a coarser one has none."""

    class Lacking(Table):
        def head(self, assignment: Assignment) -> float:
            return float("inf") if (assignment.kept, assignment.wide) in ((0, 0), (2, 0)) else super().head(assignment)

    for least in (1, 2, 3):
        table = Lacking({"fp32": least, "bf16": least})
        found = find(table, ends={})
        assert found.assignment is not None and found.milliseconds == table.cost(found.assignment)
        assert found.assignment.kept == {1: 1, 2: 2, 3: 4}[least]
        assert found.assignment.wide == (1 if least == 2 else 0)


def test_float32_is_taken_where_it_spares_layers_from_leaving_int8() -> None:
    table = Table({"fp32": 9, "bf16": 8}, wide=(1, 1))
    assert find(table).assignment == Assignment(1, "bf16", wide=1)


class TestTime:
    def test_nothing_is_begun_after_it(self) -> None:
        table = Table({"fp32": 0, "bf16": 0})
        found = find(table, deadline=Deadline(0.0))
        assert not table.asked
        assert found == Found(None, float("inf"), "time ran out before anything was judged", False)

    @pytest.mark.parametrize("trials", range(1, 12))
    def test_keeps_the_best_until_then(self, monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
        """A clock that goes one second for each trial."""
        table = Table({"fp32": 1, "bf16": 5}, tail=3)
        monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: float(len(table.asked))))
        log = SearchLog(None, {})
        found = find(table, log, deadline=Deadline(float(trials)))
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
