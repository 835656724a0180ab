"""The range of batch sizes that an engine is built for."""

from __future__ import annotations

from .errors import UsageError

__all__ = ["parse_batch_range"]


def parse_batch_range(text: str) -> tuple[int, int, int]:
    """Reads "MIN:OPT:MAX".

    Raises:
        UsageError: it is not three whole numbers with 1 <= MIN <= OPT <= MAX.
    """
    parts = text.split(":")
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(parts) != 3 or len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise UsageError(f"--batch: expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, such as 1:8:64; got {text!r}")
    return numbers[0], numbers[1], numbers[2]
