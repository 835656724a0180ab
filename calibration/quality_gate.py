"""The gate for engines that are being made: FP32's side is drawn once, candidates are judged one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.chain import Progress
from ..runtime.config import SamplerConfig
from ..runtime.ebm import Ebm
from ..runtime.engine import Engine
from ..runtime.errors import DivergenceError
from ..runtime.manifest import ModelSpec
from ..runtime.precision_schedule import Span
from .chain_plan import plan_chains
from .gate import GateResult, judge
from .metrics.score_fidelity import StageFidelity
from .sample_set import SampleSet, score_samples
from .score_along import fidelity_along, gradients_along
from .score_bias import judge_score
from .temperature import final_temperature
from .trajectory import record_trajectory
from .verdict import MetricVerdict

__all__ = ["GateRules", "QualityGate"]

Tell = Callable[[str, int, int], None]

_TRAJECTORY_CHAINS = 256
_TRAJECTORY_BYTES = 256 * 2**20
_STAGES = 12


@dataclass(frozen=True)
class GateRules:
    """What has to be kept.

    Attributes:
        gate: largest ratio to the seed noise floor that passes.
        smallest_difference: shift of the energy that should be seen, in its standard deviations; the number of
            chains follows from it.
        bias_limit: largest gain and bias of the gradient that pass, relative to its rms.
        extra_rounds: times that more chains are drawn for a verdict that is not decided.
        seed: FP32 draws with this one, candidates with the next.
    """

    gate: float = 1.25
    smallest_difference: float = 0.15
    bias_limit: float = 0.01
    extra_rounds: int = 2
    seed: int = 0


class QualityGate:
    """Judges engines of one model by the samples that they draw and by their score along a trajectory.

    Args:
        fp32: an open engine in float32: the reference.
        model: what the energy takes.
        config: the sampler's settings.
        rules: what has to be kept.
        cond: rows of the conditioning inputs by graph name, [R, ...]; chain i takes row i modulo R.
        data: [M, *S] states that chains start from, for init="data".
        progress: called with (what is being done, done, in all).
    """

    def __init__(
        self,
        fp32: Engine,
        model: ModelSpec,
        config: SamplerConfig,
        rules: GateRules,
        *,
        cond: Mapping[str, np.ndarray] | None = None,
        data: np.ndarray | None = None,
        progress: Tell | None = None,
    ) -> None:
        self.rules = rules
        self.plan = plan_chains(rules.gate, rules.smallest_difference)
        self._model = model
        self._config = config
        self._cond = dict(cond or {})
        self._data = data
        self._tell = progress or (lambda what, done, total: None)
        self._engine = fp32
        self._fp32 = self._ebm(fp32)
        self._pools: list[SampleSet] = []
        chains = min(_TRAJECTORY_CHAINS, max(16, _TRAJECTORY_BYTES // (4 * _STAGES * math.prod(model.x.shape))))
        self._rows = self._conditions(chains)
        self._trajectory = record_trajectory(
            fp32,
            config,
            model.x.shape,
            chains,
            seed=rules.seed + 2,
            stages=_STAGES,
            cond=self._rows,
            data=data,
            progress=lambda done, total: self._tell("a trajectory of FP32", done, total),
        )
        self._exact = gradients_along(fp32, self._trajectory, self._rows)

    def fidelity(self, engine: Engine | Callable[[int], Engine]) -> tuple[StageFidelity, ...]:
        """Compares an open engine's gradients with FP32's along the trajectory, or those of an engine for each step."""
        grads = gradients_along(engine, self._trajectory, self._rows)
        return fidelity_along(self._trajectory, self._exact, grads)

    def score_verdicts(self, fidelity: Sequence[StageFidelity]) -> list[MetricVerdict]:
        """The part of the verdict that needs no samples: gain and bias."""
        return judge_score(fidelity, self.rules.bias_limit)

    def judge(self, name: str, engine: Engine, schedule: Sequence[tuple[Span, Engine]] = ()) -> GateResult:
        """Draws samples and judges them.

        Args:
            name: for the progress.
            engine: open; the only one, or the last of the schedule's.
            schedule: spans of steps with the open engine that runs each.
        """
        spans = [(span, own) for span, own in schedule]

        def at(step: int) -> Engine:
            return next((own for span, own in spans if span.stop is None or step < span.stop), engine)

        fidelity = self.fidelity(at)
        candidate = self._ebm(engine, schedule)
        own = self._drawn(candidate, 0, 1, name)
        result: GateResult | None = None
        for extra in range(self.rules.extra_rounds + 1):
            reference = self._reference(extra)
            self._tell(f"judging {name}", 0, 0)
            result = judge(
                reference,
                own,
                fidelity,
                gate=self.rules.gate,
                smallest_difference=self.rules.smallest_difference,
                bias_limit=self.rules.bias_limit,
                temperature=final_temperature(self._config),
                seed=self.rules.seed,
            )
            if result.decided or extra == self.rules.extra_rounds:
                break
            own = own.join(self._drawn(candidate, extra + 1, 1, f"more of {name}"))
        assert result is not None
        return result

    def _reference(self, extra: int) -> SampleSet:
        while len(self._pools) <= extra:
            more = self._drawn(self._fp32, len(self._pools), 0, "FP32")
            self._pools.append(self._pools[-1].join(more) if self._pools else more)
        return self._pools[extra]

    def _drawn(self, ebm: Ebm, turn: int, offset: int, name: str) -> SampleSet:
        count = self.plan.pool
        cond = self._conditions(count)

        def told(now: Progress) -> None:
            done = now.chains.start * now.steps + now.done * len(now.chains)
            self._tell(f"samples of {name}", done, now.n * now.steps)

        seed = self.rules.seed + 10 * (turn + 1) + offset
        try:
            x = ebm.sample(count, seed=seed, cond=cond, callback=told)
        except DivergenceError:
            x = np.full((count, *self._model.x.shape), np.nan, np.float32)  # which the gate refuses as not finite
            return SampleSet(x, np.full(count, np.nan, np.float32), np.full_like(x, np.nan))
        self._tell(f"scoring samples of {name}", 0, 0)
        return score_samples(self._fp32, x, cond=cond)

    def _conditions(self, count: int) -> dict[str, np.ndarray]:
        return {name: array[np.arange(count) % len(array)] for name, array in self._cond.items()}

    def _ebm(self, engine: Engine, schedule: Sequence[tuple[Span, Engine]] = ()) -> Ebm:
        return Ebm(engine, self._model, self._config, data=self._data, schedule=schedule)
