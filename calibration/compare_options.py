"""What to compare, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .gate_rules import GateRules

__all__ = ["CompareOptions", "Tell"]

Tell = Callable[[str, int, int], None]
"""Is called with (what is being done, done, in all)."""


_APART = 1_000_000
"""Of the seeds of a comparison and those of an export, which begin at 0."""


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, and how.

    Attributes:
        bundles: folders that ebm-export wrote; the first one's FP32 engine is the reference.
        backends: only these; all if empty.
        precisions: only these; all if empty.
        candidates: score graphs made elsewhere, NAME=FILE or NAME=BACKEND:FILE.
        gate: largest ratio to the seed noise floor that passes.
        smallest_difference: shift in standard deviations that should be caught; the number of chains follows.
        chains: number of chains in place of that.
        extra_rounds: how often as many chains again are drawn where the gate is undecided.
        features: "pixels" for x itself, "model" for the score graph's own features, or an ONNX file from x to features.
        classes: an ONNX file from x to one number for each class: the likeliest is a sample's mode; None finds modes by clustering.
        data: [M, *S] data that the model was trained for, for the AUROC and the likelihood.
        ood: [M, *S] other data.
        likelihood: temperatures of annealed importance sampling, at least 2, which gives bounds of log-likelihoods; None leaves them
            out.
        exact: whether each engine runs a few chains that FP32 corrects, for the acceptance of exact sampling.
        cond: conditioning inputs by name, in place of those in the bundle.
        seed: which of the comparisons of the same things this is; the seeds of its chains are in its result.
        threads: threads of one engine call.
        batches: batch sizes to time.
        rounds: rounds of timing.
        cache: folder that keeps the sample sets; None keeps nothing.
        sysfs: where power sensors are looked for.
    """

    bundles: Sequence[str | Path]
    backends: Sequence[str] = ()
    precisions: Sequence[str] = ()
    candidates: Sequence[str] = ()
    gate: float = 1.25
    smallest_difference: float = 0.1
    chains: int | None = None
    extra_rounds: int = 1
    features: str = "pixels"
    classes: str | Path | None = None
    data: np.ndarray | None = None
    ood: np.ndarray | None = None
    likelihood: int | None = None
    exact: bool = False
    cond: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    threads: int | None = None
    batches: Sequence[int] = (1, 8)
    rounds: int = 9
    cache: Path | None = None
    sysfs: str | Path = "/sys"

    @property
    def network(self) -> Path | None:
        """The network whose features samples are compared by; None for x itself and the model's own features."""
        return None if self.features in ("pixels", "model") else Path(self.features)

    def rules(self) -> GateRules:
        """The gate's, with seeds that no export draws with: chains by which an engine was chosen would say the same of it again."""
        return GateRules(
            gate=self.gate,
            smallest_difference=self.smallest_difference,
            extra_rounds=self.extra_rounds,
            seed=_APART + self.seed,
        )
