"""Where a call that takes several steps ends."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ends_of_blocks"]


def ends_of_blocks(count: int, steps: int, warm_up: int = 0, every: int | None = None) -> Callable[[int], int]:
    """Returns step -> the number of steps that are done after the call that begins with it.

    Args:
        count: most steps in one call.
        steps: number of steps in all.
        warm_up: first steps, which are taken one by one.
        every: no call goes beyond a multiple of this, so that somebody hears of the state there; None for no such place.
    """

    def end(step: int) -> int:
        if step < warm_up:
            return step + 1
        found = min(step + count, steps)
        return found if every is None else min(found, (step // every + 1) * every)

    return end
