"""Writes and checks the graphs that take several steps in one call."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..runtime.backends import available, backend_of, needs_scale
from ..runtime.chain import chain_steps
from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError
from ..runtime.fused_steps import BAKED, FUSABLE, Fused
from .sampler_graph import sampler_graph
from .split import split
from .standalone_sampler import standalone_sampler, why_not_standalone
from .targets import Artifact, Progress, target
from .written_engine import written_engine

__all__ = ["Fusion"]

_LIMITS = {"fp32": 1e-4, "bf16": 1e-4, "fp16": 1e-2}
"""How far K steps in one call may end from K single ones, in units of how far the chain went. Both compute with the same graph, in
FP32 and BF16 from the same numbers. Elsewhere the gradient scale is summed up in another order, and what it multiplies is
rounded to another neighbour now and then."""
_COARSE = 0.1
_STAGES = 3


class Fusion(NamedTuple):
    """What `--fuse` asks for.

    Attributes:
        steps: K, steps in one call.
        config: the sampler's settings.
        splits: whether the score graph is split, as its artifact is.
    """

    steps: int
    config: SamplerConfig
    splits: bool

    def check(self) -> None:
        """Refuses settings that cannot be fused.

        Raises:
            UsageError: the sampler accepts and rejects, or K is no number of at least 2.
        """
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 2:
            raise UsageError(f"fuse: expected the number of steps in one call, at least 2, got {self.steps!r}")
        if self.config.sampler not in FUSABLE:
            raise UsageError(
                f"fuse: the sampler {self.config.sampler!r} accepts and rejects, which no graph of fixed steps can; it can be "
                f"done for {', '.join(FUSABLE)}"
            )

    def write(
        self, artifact: Artifact, model: ir.Model, folder: Path, batch: tuple[int, int, int], tell: Progress
    ) -> Artifact:
        """Writes the graph of K steps beside a score graph; returns its entry.

        Args:
            artifact: the score graph's entry.
            model: the score graph that it was written from, whole or its steps' part.
            folder: where its files are.
            batch: smallest, most frequent and largest batch.
            tell: progress.
        """
        halves = split(model) if self.splits else None
        score = model if halves is None else halves.score
        graph = sampler_graph(score, self.config, self.steps, scaled=needs_scale(artifact["precision"]))
        made = self._written(artifact, ir.to_proto(graph), folder, batch, "sampler", tell)
        made["steps"] = self.steps
        return made

    def write_standalone(
        self, artifact: Artifact, model: ir.Model, folder: Path, batch: tuple[int, int, int], tell: Progress
    ) -> Artifact | None:
        """Writes a whole chain with noise of its own; None where there can be none. Arguments are those of `write`."""
        if why_not_standalone(self.config, artifact["precision"]) is not None:
            return None
        graph = standalone_sampler(model, self.config, scaled=needs_scale(artifact["precision"]))
        made = self._written(artifact, ir.to_proto(graph), folder, batch, "standalone", tell)
        made["role"] = "sampler"
        made["note"] = "; ".join(
            filter(None, [made["note"], "a whole chain with noise of its own, for other programs"])
        )
        return made

    def why_wrong(self, artifact: Artifact, made: Artifact, folder: Path, golden: dict[str, np.ndarray]) -> str | None:
        """Runs K steps both ways from states along the golden chains, with noise and without.

        Returns:
            None where they end in the same places, else what is off; "not run" where the backend is not there.
        """
        missing = available(backend_of(artifact["target"]))
        if missing is not None:
            return "not run"
        stages = np.unique(np.linspace(0, len(golden["step"]) - 1, _STAGES).round().astype(int))
        settings = self.config.replace(steps=self.steps, warmup=0)
        still = settings.replace(noise=None, temperature=0.0)
        limit = _LIMITS.get(artifact["precision"], _COARSE)
        with tempfile.TemporaryDirectory() as scratch:
            engine = written_engine(artifact, folder, Path(scratch))
            fused = Fused(written_engine(made, folder, Path(scratch)), self.steps, self.config)
            with engine, fused.engine:
                for stage in stages:
                    x = golden["x"][stage]
                    cond = {
                        name.removeprefix("cond."): np.ascontiguousarray(rows[stage])
                        for name, rows in golden.items()
                        if name.startswith("cond.")
                    }
                    for config in dict.fromkeys((settings, still)):
                        ends = [_ends(engine, config, x, cond, steps) for steps in (None, fused)]
                        well, both = (np.isfinite(end).reshape(len(x), -1).all(axis=1) for end in ends)
                        if not np.array_equal(well, both):
                            return (
                                f"{made['path']} diverges where the step-by-step chain does not, or the other way round"
                            )
                        if not well.any():
                            continue
                        off, far = (_norms((ends[0] - other)[well]) for other in (ends[1], x))
                        worst = float((off / np.maximum(far, 1e-3 * _norms(x[well]) + 1e-12)).max())
                        if not worst <= limit:
                            return (
                                f"{made['path']} leaves the step-by-step chain: after {self.steps} steps from step "
                                f"{int(golden['step'][stage])} by {worst:.2g} of the way, allowed {limit:g}"
                            )
        return None

    def _written(
        self, artifact: Artifact, proto: Any, folder: Path, batch: tuple[int, int, int], role: str, tell: Progress
    ) -> Artifact:
        made: Artifact = target(artifact["target"]).write(
            proto, folder, precision=artifact["precision"], batch=batch, role=role, progress=tell
        )
        made["options"] |= artifact["options"]
        made["settings"] = {name: value for name, value in self.config.to_dict().items() if name in BAKED}
        return made


def _ends(
    engine: Any, config: SamplerConfig, x: np.ndarray, cond: dict[str, np.ndarray], fused: Fused | None
) -> np.ndarray:
    """Where chains end, [N, *S]; NaN where one diverged."""
    # Not on the engine's own device, where fused steps have no part in it.
    run = chain_steps(engine, config, x, range(len(x)), len(x), cond=cond, stop_when_diverged=False, fused=fused)
    now = list(run)[-1]
    ends = np.array(now.state.position)
    if now.diverged is not None:
        ends[now.diverged] = np.nan
    return ends


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(rows.reshape(len(rows), -1), axis=1))
