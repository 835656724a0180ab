"""What one call of `Ebm.sample` or `Ebm.stream` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .config import SamplerConfig
from .engine import Engine
from .method import build_method
from .noise import NoiseSource
from .run import largest_batch
from .runaway import Runaways
from .start import Start

__all__ = ["Request"]


class Request(NamedTuple):
    """Chains to be run, of arguments that were checked.

    Attributes:
        config: the sampler's settings.
        n: number of chains.
        seed: of the noise.
        first: number of chain 0 in what is drawn.
        start: where chains start, and which numbers stay there.
        cond: conditioning arrays by graph name, each [n, ...] or [1, ...].
        max_batch: most samples in one engine call.
        engine: takes the first step.
        switches: engines that take over at a step, by its number.
        exact: the engine that samples follow exactly; None where there is none.
        runaways: looks for chains that ran away; None where nobody does.
    """

    config: SamplerConfig
    n: int
    seed: int
    first: int
    start: Start
    cond: Mapping[str, np.ndarray]
    max_batch: int
    engine: Engine
    switches: Mapping[int, Engine]
    exact: Engine | None
    runaways: Runaways | None = None

    @property
    def batch(self) -> int:
        """How many chains run together; a UsageError where an engine call does not take even one."""
        return largest_batch(self.config, self.n, self.max_batch)

    def why_one_by_one(self, energy_range: tuple[float, float] | None = None) -> str:
        """Why something has to be looked at after each step, so that none are fused; empty where nothing has.

        Args:
            energy_range: of a chain that is well, where that is watched and nothing tells of the energies on the way.
        """
        asked = [name for name, on in (("keep", self.start.free), ("energy_range", energy_range)) if on is not None]
        return f"each step is looked at for {' and '.join(asked)}" if asked else ""

    def check(self) -> None:
        """Raises what a run of these chains would raise before its first step; for who does something first that cannot be undone.

        Raises:
            UsageError: the settings leave the sampler nothing that it can sample, there is nothing to start from, or a wrong seed.
        """
        NoiseSource(self.seed)
        largest_batch(self.config, self.n, self.max_batch)
        energy = None if self.exact is None else lambda x: np.zeros(len(x), np.float32)
        free = None if self.start.free is None else self.start.free[:1]
        build_method(self.config, self.start(range(1)), energy, free)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that `run.run_chains` and `chain.chain_steps` share, by their names there."""
        return {
            "seed": self.seed,
            "first": self.first,
            "cond": self.cond,
            "switches": self.switches,
            "exact": self.exact,
            "free": self.start.free,
            "runaways": self.runaways,
        }
