"""From numbers to places on a chart, and the numbers worth writing beside an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Scale", "format_number", "scale_over"]


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low: number at its start.
        high: number at its end, above `low`.
        start: place of its start, in the units of the drawing.
        end: place of its end.
        log: whether equal ratios take equal room; both numbers are then above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a number; one beyond the ends is put at the end."""
        low, high, at = (math.log(max(number, 1e-300)) if self.log else number for number in self._and(value))
        return self.start + (self.end - self.start) * min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers between the ends: 1, 2 or 5 times a power of ten, about as many as wanted."""
        if self.log:
            return self._log_ticks(wanted)
        rough = (self.high - self.low) / max(wanted - 1, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _log_ticks(self, wanted: int) -> list[float]:
        lowest, highest = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [
                factor * 10.0**power
                for power in range(lowest, highest + 1)
                for factor in factors
                if self.low * 0.999 <= factor * 10.0**power <= self.high * 1.001
            ]
            if len(found) <= wanted + 1:
                break
        return found[:: max(1, math.ceil(len(found) / (wanted + 1)))] or [self.low, self.high]

    def _and(self, value: float) -> tuple[float, float, float]:
        return self.low, self.high, value


def scale_over(
    values: Iterable[float | None], start: float, end: float, *, log: bool = False, zero: bool = False
) -> Scale:
    """Makes an axis that some numbers fit on, with a little room at its ends.

    Args:
        values: the numbers; those that are missing, not finite, or (on a logarithmic axis) not above 0 are left out.
        start: place of the axis's start.
        end: place of its end.
        log: a logarithmic axis.
        zero: begin at 0.
    """
    usable = [value for value in values if value is not None and math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(usable), max(usable)) if usable else (0.1 if log else 0.0, 1.0)
    if log:
        room = max((high / low) ** 0.08, 1.05)
        return Scale(low / room, high * room, start, end, log=True)
    if zero:
        low = min(low, 0.0)
    if high <= low:
        high, low = high + (abs(high) or 1.0) * 0.5, low if zero else low - (abs(low) or 1.0) * 0.5
    room = 0.05 * (high - low)
    return Scale(low if zero and low == 0 else low - room, high + room, start, end)


def format_number(value: float | None, digits: int = 3) -> str:
    """A number for people: three figures, no exponent where it can be helped, a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e5 or size < 1e-4:
        mantissa, _, exponent = f"{value:.{max(digits - 2, 0)}e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")
