"""Numbers of the chains that run together: a range, or, where some run again, those that are left of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["Chains", "chains_of", "rows_at", "shifted", "stretches"]

Chains = range | tuple[int, ...]
"""Numbers that rise; a range where no number is left out, since rows and noise of those are had at less cost."""


def chains_of(numbers: Sequence[int]) -> Chains:
    """Returns numbers that rise, at least one, as a range where none is left out."""
    whole = range(numbers[0], numbers[-1] + 1)
    return whole if len(whole) == len(numbers) else tuple(numbers)


def shifted(chains: Chains, by: int) -> Chains:
    """Returns the same chains, counted from another one."""
    if isinstance(chains, range):
        return range(chains.start + by, chains.stop + by)
    return tuple(number + by for number in chains)


def rows_at(array: np.ndarray, chains: Chains) -> np.ndarray:
    """Returns the rows of these chains of an array that has one for each; those of a range without a copy."""
    return array[chains.start : chains.stop] if isinstance(chains, range) else array[list(chains)]


def stretches(chains: Chains) -> Iterable[range]:
    """Yields the chains as ranges, as few as there are."""
    if isinstance(chains, range):
        yield chains
        return
    ends = [index for index in range(1, len(chains)) if chains[index] != chains[index - 1] + 1]
    for first, stop in zip([0, *ends], [*ends, len(chains)], strict=True):
        yield range(chains[first], chains[stop - 1] + 1)
