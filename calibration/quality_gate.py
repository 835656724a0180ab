"""The gate for engines that are being made: FP32's side is drawn once, candidates are judged one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.ebm import Ebm
from ..runtime.engine import Engine
from ..runtime.errors import DivergenceError
from ..runtime.manifest import ModelSpec
from ..runtime.precision_schedule import Span
from ..runtime.progress import Progress
from .chain_plan import plan_chains
from .gate import GateResult
from .gate_rules import GateRules
from .metrics.score_fidelity import StageFidelity
from .rounds import Rounds
from .sample_networks import SampleNetworks
from .sample_set import SampleSet, score_samples
from .score_bias import judge_score
from .score_check import ScoreCheck
from .temperature import final_temperature
from .verdict import MetricVerdict

__all__ = ["QualityGate"]

Tell = Callable[[str, int, int], None]


class QualityGate:
    """Judges engines of one model by the samples that they draw and by their score along a trajectory.

    Args:
        fp32: an open engine in float32: the reference.
        model: what the energy takes.
        config: the sampler's settings.
        rules: what has to be kept.
        cond: rows of the conditioning inputs by graph name, [R, ...]; chain i takes row i modulo R.
        data: [M, *S] states that chains start from, for init="data".
        networks: what samples are compared by beside x, and what tells their classes; None for x itself and clusters.
        max_batch: most chains in one engine call; None for as many as `Ebm` takes.
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
        networks: SampleNetworks | None = None,
        max_batch: int | None = None,
        progress: Tell | None = None,
    ) -> None:
        self.rules = rules
        self.plan = plan_chains(rules.gate, rules.smallest_difference)
        self._model = model
        self._config = config
        self._cond = dict(cond or {})
        self._data = data
        self._networks = networks
        self._max_batch = max_batch
        self._tell = progress or (lambda what, done, total: None)
        self._fp32 = self._ebm(fp32)
        self._rounds = Rounds(rules, lambda seed: self._drawn(self._fp32, seed, "FP32"), self._tell)
        self._score = ScoreCheck(
            lambda: nullcontext(fp32),  # open as long as this is
            model,
            config,
            rules,
            conditions=self._conditions,
            data=data,
            max_batch=max_batch,
            progress=lambda done, total: self._tell("a trajectory of FP32", done, total),
        )

    def fidelity(self, engine: Engine | Callable[[int], Engine]) -> tuple[StageFidelity, ...]:
        """Compares an open engine's gradients with FP32's along the trajectory, or those of an engine for each step."""
        told = partial(self._tell, "comparing gradients with FP32's")
        return self._score.fidelity(engine, told, max_batch=self._max_batch)

    def score_verdicts(self, fidelity: Sequence[StageFidelity]) -> list[MetricVerdict]:
        """The part of the verdict that needs no samples: gain and bias."""
        return judge_score(fidelity, self.rules.bias_limit)

    def refused_by_score(self, fidelity: Sequence[StageFidelity]) -> str:
        """Why an engine fails already by its score, which needs no samples; "" where it does not."""
        bent = [verdict for verdict in self.score_verdicts(fidelity) if not verdict.passed]
        if not bent:
            return ""
        if any(np.isnan(verdict.value) for verdict in bent):
            return (
                "its gradient is not finite at some of the states that were compared: chains that come there are lost"
            )
        return ", ".join(f"{verdict.metric} {verdict.value:.4f}, at most {verdict.floor:g} passes" for verdict in bent)

    def judge(
        self,
        name: str,
        engine: Engine,
        schedule: Sequence[tuple[Span, Engine]] = (),
        fidelity: Sequence[StageFidelity] | None = None,
    ) -> GateResult:
        """Draws samples and judges them.

        Args:
            name: for the progress.
            engine: open; the only one, or the last of the schedule's.
            schedule: spans of steps with the open engine that runs each.
            fidelity: what `fidelity` gave for it, where it was asked already.
        """

        def at(step: int) -> Engine:
            return next((own for span, own in schedule if span.stop is None or step < span.stop), engine)

        candidate = self._ebm(engine, schedule)
        result, _ = self._rounds.judge(
            name,
            lambda seed: self._drawn(candidate, seed, name),
            self.fidelity(at) if fidelity is None else fidelity,
            final_temperature(self._config),
        )
        return result

    def _drawn(self, ebm: Ebm, seed: int, name: str) -> SampleSet:
        count = self.plan.pool
        cond = self._conditions(count)

        def told(now: Progress) -> None:
            self._tell(f"drawing samples of {name}", *now.part)

        try:
            x = ebm.sample(count, seed=seed, cond=cond, callback=told)
        except DivergenceError:
            x = np.full((count, *self._model.x.shape), np.nan, np.float32)  # which the gate refuses as not finite
            return SampleSet(x, np.full(count, np.nan, np.float32), np.full_like(x, np.nan))
        self._tell(f"scoring samples of {name}", 0, 0)
        return score_samples(self._fp32, x, cond=cond, networks=self._networks)

    def _conditions(self, count: int) -> dict[str, np.ndarray]:
        return {name: array[np.arange(count) % len(array)] for name, array in self._cond.items()}

    def _ebm(self, engine: Engine, schedule: Sequence[tuple[Span, Engine]] = ()) -> Ebm:
        return Ebm(engine, self._model, self._config, data=self._data, max_batch=self._max_batch, schedule=schedule)
