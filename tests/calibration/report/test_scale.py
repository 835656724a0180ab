from __future__ import annotations

import math

import pytest

from ebm_export.calibration.report.scale import Scale, format_number, scale_over


class TestScale:
    def test_places(self) -> None:
        assert Scale(0, 10, 100, 300)(2.5) == 150
        assert Scale(1, 100, 0, 2, log=True)(10) == pytest.approx(1)
        assert Scale(0, 1, 200, 0)(0.25) == 150  # upwards

    def test_beyond_the_ends_is_at_the_ends(self) -> None:
        assert Scale(0, 1, 0, 10)(5) == 10
        assert Scale(1, 10, 0, 10, log=True)(0) == 0

    @pytest.mark.parametrize("low,high", [(0, 1), (0, 0.003), (-7, 13), (995, 1005), (1e-9, 3e-9)])
    def test_ticks_are_round_and_inside(self, low: float, high: float) -> None:
        ticks = Scale(low, high, 0, 1).ticks()
        assert 2 <= len(ticks) <= 8
        assert all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in ticks)

    @pytest.mark.parametrize("low,high", [(0.5, 30), (1e-14, 1), (0.8, 1.3), (1.1, 1.4)])
    def test_log_ticks_are_few_and_inside(self, low: float, high: float) -> None:
        ticks = Scale(low, high, 0, 1, log=True).ticks()
        assert 1 <= len(ticks) <= 8
        assert all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)


class TestScaleOver:
    def test_leaves_room_and_ignores_what_is_no_number(self) -> None:
        scale = scale_over([1.0, None, math.nan, math.inf, 3.0], 0, 1)
        assert scale.low == pytest.approx(0.9) and scale.high == pytest.approx(3.1)

    def test_begins_at_zero(self) -> None:
        assert scale_over([1.0, 3.0], 0, 1, zero=True).low == 0

    def test_a_log_axis_ignores_zero(self) -> None:
        assert 0 < scale_over([0.0, -1.0, 1.0, 10.0], 0, 1, log=True).low < 1

    @pytest.mark.parametrize("values", [[], [2.0, 2.0], [0.0], [-3.0]])
    @pytest.mark.parametrize("log", [False, True])
    def test_no_room_between_the_numbers(self, values: list[float], log: bool) -> None:
        scale = scale_over(values, 0, 1, log=log)
        assert scale.high > scale.low


@pytest.mark.parametrize(
    "number,text",
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0, "0"),
        (1.25, "1.25"),
        (-0.5, "−0.5"),
        (1234.5, "1234"),
        (0.000123456, "0.000123"),
        (1.5e-7, "1.5e−7"),
        (2.5e9, "2.5e9"),
        (300.0, "300"),
    ],
)
def test_format_number(number: float | None, text: str) -> None:
    assert format_number(number) == text
