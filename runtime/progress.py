"""What those who watch chains are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .chain_numbers import Chains
from .snapshot import Snapshot

__all__ = ["Callback", "Progress", "ProgressOnly", "on_the_host"]


class Progress(NamedTuple):
    """What a callback is told, once at the start of each batch of chains and once after every step.

    The arrays are overwritten by the steps that follow; copy what is to be kept.

    Attributes:
        done: steps taken, 0 at the start. Exact sampling tells of whole blocks after its warm-up, and fused steps are told of together.
        steps: steps in all.
        chains: numbers of the chains in this batch: a range, or a tuple where those that diverged run again.
        n: number of chains in all batches together.
        state: positions, energies and gradients of these chains, as the sampler's `State` names them.
        info: what the step reports, the sampler's `Info`; None at the start.
        grad_scale: [B] float32, the scale that energy and gradient were computed with; None where nothing has been.
        warming_up: whether the step was one of the warm-up.
        diverged: [B] bool, chains whose numbers are no longer finite, or which ran away; None where there are none.
        calls: how often the engine was asked for these chains, the start included.
        snapshot: makes a `Snapshot` of what the chains go on from.
        attempt: how often these chains were started anew, see `run.run_chains`.
        runs: (done before this batch, in all) runs of chains, where some ran again; None where each chain runs once.
        energies: x [B, *S] float32 -> energy [B] of other states of these chains, a new array, for a sampler whose `state.energy` is not
            that of its position; the chains go on as if nothing had been asked. None for the others.
    """

    done: int
    steps: int
    chains: Chains
    n: int
    state: Any
    info: Any
    grad_scale: np.ndarray | None
    warming_up: bool = False
    diverged: np.ndarray | None = None
    calls: int = 0
    snapshot: Callable[[], Snapshot] | None = None
    attempt: int = 0
    runs: tuple[int, int] | None = None
    energies: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def part(self) -> tuple[int, int]:
        """(steps of all chains taken, in all), for a progress bar; batches run one after another, and some chains again."""
        before, runs = self.runs or (self.chains[0], self.n)
        return before * self.steps + self.done * len(self.chains), runs * self.steps


Callback = Callable[[Progress], None]


class ProgressOnly:
    """A callback that asks how far the chains are and looks at no state, so that they may stay on the engine's device.

    There it is told now and then, not of every step.

    Args:
        tell: called with `Progress.part`.
    """

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def __call__(self, progress: Progress) -> None:
        self._tell(*progress.part)


def on_the_host(progress: Progress) -> None:
    """A callback that may look at states, which keeps chains on the host; this one does not."""
