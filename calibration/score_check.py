"""How well an engine's score follows FP32's along FP32's own chains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.distinct_rows import distinct_rows
from ..runtime.engine import Engine
from ..runtime.manifest import ModelSpec
from ..runtime.row_norms import square_sums
from ..runtime.samplers.clipping import clip_gradient
from .gate_rules import GateRules
from .metrics.score_fidelity import StageFidelity
from .score_along import fidelity_along, gradients_along
from .score_bias import judge_score
from .temperature import comes_to_rest
from .trajectory import Trajectory, record_trajectory

__all__ = ["ScoreCheck"]

_CHAINS, _NUMBERS = (256, 4096), 2**16
"""Chains whose states gradients are compared at: as many as make up 2**16 numbers of x, within these limits. With 256 a bias
of 1/16 of the noise shows, with 4096 one of 1/64; in few dimensions fewer numbers share in the mean. A mean that one state of a
hundred carries, as that of the digits in INT8 late in their chains, is another one at each 256 chains."""
_OF_ONE = 4
"""Chains at each condition, at least: what their errors have in common is the bias there, which one chain could not show."""
_STAGES = 12
_BYTES = 128 * 2**20
"""Largest size of one trajectory's states; fewer chains are run where a state is large."""


class ScoreCheck:
    """FP32's gradients at the states of its own trajectories, as the sampler's steps read them: clipped where it clips.

    There is one trajectory, and another one for an engine that fails by less than what chance could do: noise of few directions looks
    like a bias where few chains are asked. Then the verdict is that on all states together, as often as the rules allow.

    Args:
        fp32: opens the engine; used here and whenever another trajectory is needed.
        model: what the energy takes.
        config: the sampler's settings.
        rules: seeds, the limit, and how many trajectories more there may be.
        conditions: gives a row of every conditioning input, by graph name, for each of so many chains.
        data: [M, *S] states that chains start from, for init="data".
        max_batch: most rows that FP32's engine takes in one call; None where it takes any.
        progress: called with (steps done, in all).
    """

    def __init__(
        self,
        fp32: Callable[[], AbstractContextManager[Engine]],
        model: ModelSpec,
        config: SamplerConfig,
        rules: GateRules,
        *,
        conditions: Callable[[int], Mapping[str, np.ndarray]],
        data: np.ndarray | None = None,
        max_batch: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        numbers = math.prod(model.x.shape)
        chains = min(max(_CHAINS[0], min(_NUMBERS // numbers, _CHAINS[1])), max(16, _BYTES // (4 * _STAGES * numbers)))
        several = max(1, chains // _OF_ONE)
        own_row = np.arange(chains) % several
        self._cond = conditions(several)
        _, which = distinct_rows(self._cond.values(), several)
        self._condition = which[own_row]
        self._rules = rules
        self._rests = comes_to_rest(config)
        self._config = config
        self._along: list[tuple[Trajectory, np.ndarray]] = []  # with FP32's gradients

        def record(seed: int) -> tuple[Trajectory, np.ndarray]:
            with fp32() as engine:
                trajectory = record_trajectory(
                    engine,
                    config,
                    model.x.shape,
                    chains,
                    seed=seed,
                    stages=_STAGES,
                    cond={name: rows[own_row] for name, rows in self._cond.items()},
                    data=data,
                    max_batch=max_batch,
                    progress=progress,
                )
                return trajectory, self._as_read(gradients_along(engine, trajectory, self._cond, max_batch=max_batch))

        self._record = record
        self._trajectory(0)

    def fidelity(
        self,
        engine: Engine | Callable[[int], Engine],
        progress: Callable[[int, int], None] | None = None,
        *,
        max_batch: int | None = None,
    ) -> tuple[StageFidelity, ...]:
        """Compares an open engine's gradients with FP32's, stage by stage.

        Args:
            engine: the engine, or a function that gives the one for a number of steps taken.
            progress: called with (stages done, in all).
            max_batch: most rows that the engine takes in one call; None where it takes any.
        """
        found: list[np.ndarray] = []
        while True:
            trajectory, _ = self._trajectory(len(found))
            asked = gradients_along(engine, trajectory, self._cond, max_batch=max_batch, progress=progress)
            found.append(self._as_read(asked))
            exact = [self._trajectory(number)[1] for number in range(len(found))]
            conditions = np.tile(self._condition, len(found))
            fidelity = fidelity_along(trajectory, _joined(exact), _joined(found), conditions, rests=self._rests)
            failed = [verdict for verdict in judge_score(fidelity, self._rules.bias_limit) if not verdict.passed]
            # One that failed once gets no second chance to pass by luck: it is asked along all trajectories.
            settled = any(verdict.decided for verdict in failed) or (not failed and len(found) == 1)
            if settled or len(found) > self._rules.extra_rounds:
                return fidelity

    def _as_read(self, grads: np.ndarray) -> np.ndarray:
        """Gradients [G, n, *S] as steps read them, in place: clipped, but for those that are not finite.

        A chain that clips goes as far from a steep place as from a steeper one. A few of these, at which no two precisions agree, would else
        outweigh all others.
        """
        for stage in grads if self._config.grad_clip is not None else ():
            finite = np.isfinite(square_sums(stage))
            well = stage[finite]
            clipped = clip_gradient(well, self._config.grad_clip, self._config.grad_clip_mode, np.empty_like(well))
            stage[finite] = clipped[0]
        return grads

    def _trajectory(self, number: int) -> tuple[Trajectory, np.ndarray]:
        if number == len(self._along):
            self._along.append(self._record(self._rules.trajectory_seed(number)))
        return self._along[number]


def _joined(gradients: list[np.ndarray]) -> np.ndarray:
    """[G, n, *S] of each trajectory as [G, sum of n, *S]."""
    return gradients[0] if len(gradients) == 1 else np.concatenate(gradients, axis=1)
