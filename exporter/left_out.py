"""Numbers of x that an energy seems not to read."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

__all__ = ["warn_of_left_out"]

_LOG = logging.getLogger("ebm_export")


def warn_of_left_out(golden: Mapping[str, np.ndarray]) -> None:
    """Says which numbers of x have a gradient of zero wherever it was asked for: a slice that is too short, more often than meant.

    Args:
        golden: `grad` [G, N, *S] along chains.
    """
    grad = golden["grad"]
    still = (grad == 0).all(axis=(0, 1))
    if not still.any() or still.all():  # all of them are a constant energy, or a gradient clipped flat
        return
    place = ", ".join(str(index) for index in np.argwhere(still)[0])
    _LOG.warning(
        "%d of %d numbers of x have no gradient at any of %d states along chains, the first of them x[:, %s]: if the energy should read them, "
        "look there, unless it is flat where chains are; they move by noise alone",
        np.count_nonzero(still),
        still.size,
        grad.shape[0] * grad.shape[1],
        place,
    )
