"""Numbers of x that stay what they are while the others are sampled: inpainting, and other fixed coordinates.

A chain whose noise and gradient are zero there moves the others by the same dynamics, so that it samples the conditional
distribution p(others | kept), which is proportional to exp(-E / T) with the kept numbers filled in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arguments import check_mask, check_states
from .chain_numbers import Chains, rows_at
from .errors import UsageError

__all__ = ["Kept", "check_kept"]


class Kept(NamedTuple):
    """What stays.

    Attributes:
        mask: [n, *S] or [1, *S] bool, true where a number stays.
        values: [n, *S] float32; only those under the mask count.
    """

    mask: np.ndarray
    values: np.ndarray

    @property
    def free(self) -> np.ndarray:
        """[n, *S] or [1, *S] float32, 1 where a number may move, else 0."""
        return (~self.mask).astype(np.float32)

    def put(self, position: np.ndarray, chains: Chains) -> np.ndarray:
        """Returns positions [len(chains), *S] with the numbers that stay filled in, in a new array."""
        mask = self.mask if len(self.mask) == 1 else rows_at(self.mask, chains)
        return np.where(mask, rows_at(self.values, chains), position)


def check_kept(
    keep: Any,
    known: Any,
    x0: np.ndarray | None,
    shape: tuple[int, ...],
    n: int,
    bounds: tuple[float, float] | None,
) -> Kept | None:
    """Checks which numbers a caller wants to stay.

    Args:
        keep: the mask, or None where all may move.
        known: the values, or None for those of x0.
        x0: [n, *S] float32, states to start from, checked; None where there are none.
        shape: shape S of one state.
        n: number of chains.
        bounds: what numbers are kept in.

    Raises:
        UsageError: wrong type or shape, values without a mask or a mask without values, values outside the bounds or not finite,
            or a mask that leaves a chain nothing to move.
    """
    if keep is None:
        if known is not None:
            raise UsageError("known: gives the numbers that stay, and keep, which says where, is missing")
        return None
    mask = check_mask("keep", keep, shape, n)
    if known is None and x0 is None:
        raise UsageError(
            "keep: says which numbers stay, and there are none: pass known= (or x0=) an array of them (on the command line "
            "--known FILE.npy)"
        )
    values = x0 if known is None else check_states("known", known, shape, n)
    assert values is not None
    if mask.reshape(len(mask), -1).all(axis=1).any():
        raise UsageError(
            "keep: expected at least one number of each state to be free, got a mask that is true everywhere"
        )
    held = values[np.broadcast_to(mask, values.shape)]
    if known is not None and not np.isfinite(held).all():  # those of a start that is not finite are looked for with it
        raise UsageError("known: expected finite numbers where keep is true, got NaN or infinity among them")
    if bounds is not None and held.size and not (held.min() >= bounds[0] and held.max() <= bounds[1]):
        raise UsageError(
            f"known: expected numbers inside the bounds {bounds}, which hold for all of x, got numbers from "
            f"{held.min():g} to {held.max():g}"
        )
    return Kept(mask, values)
