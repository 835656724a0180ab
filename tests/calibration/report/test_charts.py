"""Charts are well-formed SVG, whatever the numbers, and put things where they belong."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from ebm_export.calibration.report.charts import (
    Bar,
    Interval,
    Line,
    Point,
    bars,
    forest,
    histogram,
    lines,
    points,
    trade_off,
)

SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: str) -> ElementTree.Element:
    root = ElementTree.fromstring(chart)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for element in root.iter():
        for name in ("x", "cx", "x1", "x2"):
            assert 0 <= float(element.get(name, 0)) <= width, ElementTree.tostring(element)
        for name in ("y", "cy", "y1", "y2"):
            assert 0 <= float(element.get(name, 0)) <= height, ElementTree.tostring(element)
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


class TestLines:
    def test_gaps_where_nothing_can_be_drawn(self) -> None:
        root = parsed(
            lines("t", [0, 1, 2, 3, 4], [Line("a<b", "s0", [1, 2, math.nan, 0, 5])], x_label="steps", limit=3)
        )
        assert [len(line.get("points", "").split()) for line in root.iter(f"{SVG}polyline")] == [2, 1]
        assert len([line for line in root.iter(f"{SVG}line") if line.get("class") == "gate"]) == 1
        assert "a<b, step 1: 2" in [title.text for title in root.iter(f"{SVG}title")]

    def test_one_step_and_nothing_at_all(self) -> None:
        parsed(lines("t", [0], [Line("a", "s0", [1.0])], x_label="steps"))
        parsed(lines("t", [0, 1], [Line("a", "s0", [None, None])], x_label="steps"))


class TestHistogram:
    def test_outline_and_area(self) -> None:
        root = parsed(histogram("t", [0, 1, 2], [0.4, 0.6], Line("a", "s1", [1.0, 0.0]), x_label="energy"))
        assert [path.get("class") for path in root.iter(f"{SVG}path")] == ["ref area", "s1 line"]

    def test_the_reference_alone(self) -> None:
        assert len(list(parsed(histogram("t", [0, 1], [0.0], None, x_label="x")).iter(f"{SVG}path"))) == 1


class TestTradeOff:
    def engines(self, count: int) -> list[Point]:
        return [
            Point(
                f"engine {index}", f"s{index % 8}", 1 + 0.01 * index, 1 + 0.02 * index, 0.9, 1.5, index == 0, index != 1
            )
            for index in range(count)
        ]

    @pytest.mark.parametrize("count", [1, 3, 8, 20])
    def test_every_engine_has_its_name(self, count: int) -> None:
        root = parsed(trade_off("t", self.engines(count), gate=1.25, x_label="ms", y_label="ratio"))
        assert sum(text.startswith("engine") for text in texts(root)) == count
        assert len([path for path in root.iter(f"{SVG}path") if path.get("class") == "cross"]) == (count > 1)
        assert len([ring for ring in root.iter(f"{SVG}circle") if ring.get("class") == "ring"]) == 1

    def test_names_of_neighbours_do_not_cover_each_other(self) -> None:
        root = parsed(trade_off("t", self.engines(6), gate=1.25, x_label="ms", y_label="ratio"))
        names = [text for text in root.iter(f"{SVG}text") if text.get("class") == "mark"]
        places = [(float(name.get("x", 0)), float(name.get("y", 0))) for name in names]
        for index, (x, y) in enumerate(places):
            assert not any(abs(x - other[0]) < 50 and abs(y - other[1]) < 10 for other in places[:index])

    def test_the_faster_stands_further_left_and_the_closer_lower(self) -> None:
        pair = [
            Point("a", "s0", 1.0, 1.0, None, None, True, True),
            Point("b", "s1", 2.0, 30.0, None, None, False, True),
        ]
        first, second = [
            dot
            for dot in parsed(trade_off("t", pair, gate=1.25, x_label="", y_label="")).iter(f"{SVG}circle")
            if dot.get("class") == "dot"
        ]
        assert float(first.get("cx", 0)) < float(second.get("cx", 0))
        assert float(first.get("cy", 0)) > float(second.get("cy", 0))

    def test_a_long_name_is_shortened_in_the_middle(self) -> None:
        name = f"{'policy_' * 12}: fp32 openvino"
        root = parsed(
            trade_off("t", [Point(name, "s0", 1.0, 1.0, None, None, True, True)], gate=1.25, x_label="", y_label="")
        )
        (mark,) = [text for text in root.iter(f"{SVG}text") if text.get("class") == "mark"]
        assert mark.text == "policy_policy_policy…icy_: fp32 openvino" and len(mark.text) <= 40
        assert any((title.text or "").startswith(name) for title in root.iter(f"{SVG}title"))

    def test_no_engine(self) -> None:
        parsed(trade_off("t", [], gate=1.25, x_label="", y_label=""))


class TestForest:
    def test_rows_that_pass_fail_and_were_not_measured(self) -> None:
        rows = [
            Interval("energy", 1.0, 0.9, 1.1, True),
            Interval("mmd", 40.0, 30.0, 60.0, False),
            Interval("stein", math.nan, None, None, None),
            Interval("modes", math.inf, None, None, False),
        ]
        root = parsed(forest("t", rows, gate=1.25))
        assert [dot.get("class") for dot in root.iter(f"{SVG}circle")] == ["dot good", "dot bad"]
        assert (texts(root).count("not measured"), texts(root).count("infinite →")) == (1, 1)

    def test_an_infinite_ratio_stands_where_the_largest_would(self) -> None:
        root = parsed(
            forest(
                "t",
                [Interval("mmd", 40.0, 30.0, 60.0, False), Interval("modes", math.inf, math.inf, math.inf, False)],
                gate=1.25,
            )
        )
        (text,) = [entry for entry in root.iter(f"{SVG}text") if entry.text == "infinite →"]
        (dot,) = root.iter(f"{SVG}circle")
        assert text.get("class") == "beyond bad" and text.get("text-anchor") == "end"
        assert float(text.get("x", 0)) > float(dot.get("cx", 0))

    def test_no_rows(self) -> None:
        parsed(forest("t", [], gate=1.25))


class TestBars:
    def test_marked_groups_and_dots(self) -> None:
        groups = [Bar("1", 0.7), Bar("2", 0.3, marked=True)]
        series = [Line("a", "s0", [0.6, 0.4]), Line("b", "s1", [1.0, None])]
        root = parsed(bars("t", groups, series, word="class", x_label="what they are", y_label="share"))
        assert texts(root).count("★") == texts(root).count("what they are") == texts(root).count("share") == 1
        said = [title.text for title in root.iter(f"{SVG}title")]
        assert said == [
            "class 1, FP32: 0.7",
            "class 2, FP32: 0.3",
            "class 1, a: 0.6",
            "class 2, a: 0.4",
            "class 1, b: 1",
        ]
        assert len(list(root.iter(f"{SVG}circle"))) == 3

    def test_one_engine_in_one_mode_does_not_squeeze_the_rest(self) -> None:
        groups = [Bar(str(index), 0.04) for index in range(25)]
        series = [Line("a", "s0", [1.0] + [0.0] * 24)]
        root = parsed(bars("t", groups, series, word="mode", x_label="mode", y_label="share"))
        assert all(float(bar.get("height", 0)) > 30 for bar in root.iter(f"{SVG}rect"))


def test_points() -> None:
    root = parsed(points("t", [(0, 0), (1, 2)], [(3, 3)], "s2"))
    assert [len(list(cloud)) for cloud in root.iter(f"{SVG}g")] == [2, 1]
    parsed(points("t", [(1, 1)], None, "ref"))
