"""What one call of `Ebm.sample` or `Ebm.stream` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .config import SamplerConfig
from .engine import Engine
from .run import largest_batch
from .start import Start

__all__ = ["Request"]


class Request(NamedTuple):
    """Chains to be run, of arguments that were checked.

    Attributes:
        config: the sampler's settings.
        n: number of chains.
        seed: of the noise.
        start: where chains start, and which numbers stay there.
        cond: conditioning arrays by graph name, each [n, ...] or [1, ...].
        max_batch: most samples in one engine call.
        engine: takes the first step.
        switches: engines that take over at a step, by its number.
        exact: the engine that samples follow exactly; None where there is none.
    """

    config: SamplerConfig
    n: int
    seed: int
    start: Start
    cond: Mapping[str, np.ndarray]
    max_batch: int
    engine: Engine
    switches: Mapping[int, Engine]
    exact: Engine | None

    @property
    def batch(self) -> int:
        """How many chains run together; a UsageError where an engine call does not take even one."""
        return largest_batch(self.config, self.n, self.max_batch)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that `run.run_chains` and `chain.chain_steps` share, by their names there."""
        return {
            "seed": self.seed,
            "cond": self.cond,
            "switches": self.switches,
            "exact": self.exact,
            "free": self.start.free,
        }
