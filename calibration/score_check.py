"""How well an engine's score follows FP32's along FP32's own chains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.distinct_rows import distinct_rows
from ..runtime.engine import Engine
from ..runtime.manifest import ModelSpec
from .metrics.score_fidelity import StageFidelity
from .score_along import fidelity_along, gradients_along
from .trajectory import record_trajectory

__all__ = ["ScoreCheck"]

_CHAINS, _NUMBERS = (256, 4096), 2**14
"""Chains whose states gradients are compared at: as many as make up 2**14 numbers of x, within these limits. With 256 a bias
of 1/16 of the noise shows, with 4096 one of 1/64; in few dimensions fewer numbers share in the mean."""
_OF_ONE = 4
"""Chains at each condition, at least: what their errors have in common is the bias there, which one chain could not show."""
_STAGES = 12
_BYTES = 256 * 2**20
"""Largest size of the states; fewer chains are run where a state is large."""


class ScoreCheck:
    """FP32's gradients at the states of one of its trajectories.

    Args:
        fp32: an open engine; needed no longer once this is made.
        model: what the energy takes.
        config: the sampler's settings.
        seed: of the trajectory.
        conditions: gives a row of every conditioning input, by graph name, for each of so many chains.
        data: [M, *S] states that chains start from, for init="data".
        progress: called with (steps done, in all).
    """

    def __init__(
        self,
        fp32: Engine,
        model: ModelSpec,
        config: SamplerConfig,
        *,
        seed: int,
        conditions: Callable[[int], Mapping[str, np.ndarray]],
        data: np.ndarray | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        numbers = math.prod(model.x.shape)
        chains = min(max(_CHAINS[0], min(_NUMBERS // numbers, _CHAINS[1])), max(16, _BYTES // (4 * _STAGES * numbers)))
        several = max(1, chains // _OF_ONE)
        self._cond = conditions(several)
        own_row = np.arange(chains) % several
        _, which = distinct_rows(self._cond.values(), several)
        self._condition = which[own_row]
        self._trajectory = record_trajectory(
            fp32,
            config,
            model.x.shape,
            chains,
            seed=seed,
            stages=_STAGES,
            cond={name: rows[own_row] for name, rows in self._cond.items()},
            data=data,
            progress=progress,
        )
        self._exact = gradients_along(fp32, self._trajectory, self._cond)

    def fidelity(
        self, engine: Engine | Callable[[int], Engine], progress: Callable[[int, int], None] | None = None
    ) -> tuple[StageFidelity, ...]:
        """Compares an open engine's gradients with FP32's, stage by stage.

        Args:
            engine: the engine, or a function that gives the one for a number of steps taken.
            progress: called with (stages done, in all).
        """
        grads = gradients_along(engine, self._trajectory, self._cond, progress=progress)
        return fidelity_along(self._trajectory, self._exact, grads, self._condition)
