"""Draws and judges the sample sets of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..runtime.backends import open_engine
from ..runtime.ebm import Ebm
from ..runtime.errors import UsageError
from .candidate import Candidate
from .chain_plan import ChainPlan
from .compare_options import CompareOptions, Tell
from .conditions import conditions_for
from .draw import SampleStore
from .gate import GateResult
from .gate_rules import GateRules
from .metrics.score_fidelity import StageFidelity
from .rounds import Rounds
from .sample_networks import sample_networks
from .sample_set import SampleSet, score_samples
from .temperature import final_temperature

__all__ = ["Sampling"]


class Sampling:
    """Draws and judges sample sets; FP32's own are drawn once for all candidates.

    Args:
        options: of the comparison.
        rules: of the gate.
        reference: FP32.
        fp32: its model, loaded; it scores all samples.
        plan: how many chains.
        tell: progress.

    Attributes:
        networks: what samples are compared by.
    """

    def __init__(
        self, options: CompareOptions, rules: GateRules, reference: Candidate, fp32: Ebm, plan: ChainPlan, tell: Tell
    ) -> None:
        self._options = options
        self._rules = rules
        self._reference = reference
        self._fp32 = fp32
        self._plan = plan
        self._tell = tell
        self._store = SampleStore(options.cache, options.threads)
        self.networks = sample_networks(
            options.features,
            options.classes,
            lambda: _own_graph(options, reference),
            reference.bundle.model.x.shape,
            threads=options.threads,
        )
        self._rounds = Rounds(rules, lambda seed: self._scored(reference, fp32, seed, "samples of FP32"), tell)

    def reference(self) -> SampleSet:
        """FP32's samples of the first round."""
        return self._rounds.reference()

    def judged(self, candidate: Candidate, ebm: Ebm, fidelity: Sequence[StageFidelity]) -> tuple[GateResult, SampleSet]:
        """Judges a candidate, with more chains where that could change the verdict; FP32 can be one too."""
        return self._rounds.judge(
            candidate.name,
            lambda seed: self._scored(candidate, ebm, seed, f"samples of {candidate.name}"),
            fidelity,
            final_temperature(self._reference.bundle.sampler),  # what the Stein discrepancy holds samples against
        )

    def same_noise(self, candidate: Candidate, ebm: Ebm, count: int) -> np.ndarray:
        """The first samples under FP32's own seed, [count, *S]."""
        cond = conditions_for(self._reference.bundle, count, self._options.cond)
        told = partial(self._tell, f"drawing samples of {candidate.name} under the same noise")
        seed = self._rules.sample_seed(0, candidate=False)
        return self._store.draw(candidate, lambda: ebm, count, seed=seed, cond=cond, progress=told)

    def _scored(self, candidate: Candidate, ebm: Ebm, seed: int, what: str) -> SampleSet:
        count = self._plan.pool
        cond = conditions_for(self._reference.bundle, count, self._options.cond)
        told = partial(self._tell, f"drawing {what}")
        x = self._store.draw(candidate, lambda: ebm, count, seed=seed, cond=cond, progress=told)
        self._tell(f"scoring {what}", 0, 0)
        return score_samples(self._fp32, x, cond=cond, networks=self.networks)


def _own_graph(options: CompareOptions, reference: Candidate) -> tuple[Path, dict[str, np.ndarray]]:
    """FP32's score graph, whose features are the model's own, and a row of each of its other inputs."""
    artifact = next(
        (
            entry
            for entry in reference.bundle.artifacts
            if entry.role == "score" and entry.precision == "fp32" and entry.path.endswith(".onnx")
        ),
        None,
    )
    if artifact is None:
        raise UsageError(
            f"--features model: {reference.bundle.path} holds no fp32 ONNX graph; export it with --target onnx too"
        )
    rows = conditions_for(reference.bundle, 1, options.cond)
    if (prologue := reference.bundle.prologue_of(artifact)) is not None:
        with open_engine("onnxruntime", reference.bundle.file_of(prologue), precision="fp32") as engine:
            made = {name: array.copy() for name, array in engine.run(rows).items()}
        rows = {name: array for name, array in rows.items() if name not in prologue.reads} | made
    return reference.bundle.file_of(artifact), rows
