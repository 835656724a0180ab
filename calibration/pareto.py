"""Which engines no other one beats."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(costs: Sequence[tuple[float, ...] | None]) -> list[bool]:
    """Says for each entry whether it is on the Pareto front: no other is as good in everything and better in something.

    Args:
        costs: numbers to be kept small, as many for each entry; None, or one that is not finite, is on no front.

    Returns:
        One answer per entry. Entries that are equal are on the front together.
    """
    usable = [entry if entry is not None and all(map(math.isfinite, entry)) else None for entry in costs]

    def beaten(own: tuple[float, ...]) -> bool:
        return any(
            other is not None and other != own and all(one <= two for one, two in zip(other, own, strict=True))
            for other in usable
        )

    return [entry is not None and not beaten(entry) for entry in usable]
