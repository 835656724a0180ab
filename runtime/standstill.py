"""Chains that hardly move, of samplers that accept or reject: samples that say nothing must not look like any others."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

__all__ = ["Standstill"]

_LOG = logging.getLogger("ebm_export")

_LEAST_STEPS = 50
_LEAST_ACCEPTANCE = 0.01


class Standstill:
    """Watches a batch of chains after their warm-up.

    Args:
        chains: their number.
    """

    def __init__(self, chains: int) -> None:
        self._sums = np.zeros(chains)
        self._steps = self._decisions = 0

    def take(self, info: Any, steps: int) -> None:
        """Takes in what so many steps tell: the `acceptance` of each chain or of its replicas, and that of a block they make up."""
        accepted = info.acceptance.reshape(len(self._sums), -1).max(axis=1)
        self._sums += steps * np.minimum(accepted, getattr(info, "block_acceptance", 1.0))
        self._steps += steps
        self._decisions += 1 if hasattr(info, "block_acceptance") else steps

    def tell(self) -> None:
        """Logs a warning where chains were accepted in less than one of a hundred steps, after at least fifty.

        Fewer steps say little of one chain, but enough of all together, where they were fifty in sum.
        """
        sums, least = self._sums, _LEAST_ACCEPTANCE * self._steps
        if self._steps < _LEAST_STEPS:
            if self._decisions * len(sums) < _LEAST_STEPS:
                return
            sums = np.full(len(sums), sums.mean())
        still = int(np.count_nonzero(sums < least))
        if still:
            _LOG.warning(
                "%d of %d chains hardly moved: less than 1 %% of their proposals were accepted after the warm-up; try a smaller "
                "step_size, a longer warmup, or a target_accept nearer to the sampler's own",
                still,
                len(self._sums),
            )
