"""Chains that stay on the engine's device from their first evaluation to their end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .config import SamplerConfig

__all__ = ["BestOnDevice", "DeviceLoop", "DeviceState", "Handover"]


class DeviceState(NamedTuple):
    """All that chains go on from after a step, copied from a device; new arrays.

    Attributes:
        position: [B, *S] float32.
        energy: [B] float32, the engine's last answer.
        grad: [B, *S] float32, the same, times its scale.
        answer_scale: [B] float32, that scale.
        scale: [B] float32, the scale of the next answer.
        carried: as in `Handover`.
        lost: [B] int32, as `DeviceLoop.run` returns it.
    """

    position: np.ndarray
    energy: np.ndarray
    grad: np.ndarray
    answer_scale: np.ndarray
    scale: np.ndarray
    carried: Mapping[str, np.ndarray]
    lost: np.ndarray


class Handover(NamedTuple):
    """What a device loop goes on from: the state after `done` steps on the host.

    The engine's last call answered at the point whose gradient comes next, and its inputs and outputs are still in the
    engine's memory: conditions and gradient scale are taken from there.

    Attributes:
        config: the sampler's settings; `sampler` is one of `fused_steps.FUSABLE`.
        position: [B, *S] float32, C-contiguous.
        carried: what else the sampler's `State` has beside energy and gradient, by its name there; [B, *S], C-contiguous.
        done: steps already taken.
        key: of the noise, `NoiseSource.key`.
        chains: numbers of these chains in the noise.
        free: [B, *S] float32, 1 where a number may move, else 0; None where all may.
        highest_scale: of the running gradient scale; None where the scale stays.
        stop: whether the loop may end once a chain is no longer well.
        energy_range: (lowest, highest) energy of a chain that is well; None where any finite one is.
        tell: called now and then with the number of steps that are done, and at the end.
        every: number of steps, counted from the chain's start, of which every multiple before the end is looked at; None for none.
        look: called there with the number of steps done and the positions [B, *S], which are overwritten afterwards.
        answer: energy [B] and dE/dx [B, *S], float32, C-contiguous, to go on from in place of the engine's last answer, whose
            energy and gradient are then not used; None where that one is gone on from.
        due: asked between two steps, now and then, whether `save` is to be called there.
        save: called with the number of steps done and everything after them.
    """

    config: SamplerConfig
    position: np.ndarray
    carried: Mapping[str, np.ndarray]
    done: int
    key: tuple[int, int]
    chains: range
    free: np.ndarray | None
    highest_scale: float | None
    stop: bool
    energy_range: tuple[float, float] | None
    tell: Callable[[int], None]
    every: int | None = None
    look: Callable[[int, np.ndarray], None] = lambda done, position: None
    answer: tuple[np.ndarray, np.ndarray] | None = None
    due: Callable[[], bool] = lambda: False
    save: Callable[[int, DeviceState], None] = lambda done, state: None


class BestOnDevice(NamedTuple):
    """Each chain's state of lowest energy among the start and those that were evaluated on the device.

    Attributes:
        x: [B, *S] float32, a new array.
        energy: [B] float32, at `x`; infinite where no state had a finite one.
        steps: steps that are done.
        lost: [B] bool, chains whose numbers are no longer finite.
    """

    x: np.ndarray
    energy: np.ndarray
    steps: int
    lost: np.ndarray


class DeviceLoop(ABC):
    """Samplers that do not reject, on the device of an engine; see `samplers/` for their steps.

    It gives the samples of the loop on the host, from the same noise, up to the rounding of sums over a sample.
    """

    @abstractmethod
    def run(self, start: Handover) -> tuple[np.ndarray, np.ndarray]:
        """Runs the chains to their end.

        Args:
            start: where they are.

        Returns:
            [B, *S] float32, the final positions, a new array; and [B] int32, after how many steps a chain's energy or
            gradient was first not finite, or its energy out of range, -1 for those that stayed well. With `stop`, positions
            mean nothing where one did not.
        """

    @abstractmethod
    def run_while(self, start: Handover, energy: np.ndarray, goes_on: Callable[[int, int], bool]) -> BestOnDevice:
        """Runs the chains step by step, as long as somebody says so, and keeps the best state of each.

        Args:
            start: where they are; the order is "drift-noise", whose states have the energy of their position.
            energy: [B] float32, of the positions there, to be beaten; infinite or NaN where anything is better.
            goes_on: asked before every step with the number of steps done and of chains lost.
        """
