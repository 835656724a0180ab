"""Energies on a stand-in for a GPU, sampled by the loop on the GPU and by that on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ebm_export.runtime import Ebm

from .stand_in import Gpu, Plan

SHAPE = (3, 5)

Open = Callable[..., Any]
"""The fixture `opened`: energy, config, options of `Gpu`, `Driver` and `Plan` -> a context with a `Bench`."""


def ripple(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (0.5 * x * x + np.cos(2 * x)).sum(axis=(1, 2)), x - 2 * np.sin(2 * x)


def around(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * ((x - centre) ** 2).sum(axis=(1, 2)), x - centre


def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Infinite where the first number is above 2."""
    energy, grad = ripple(x)
    return np.where(x[:, 0, 0] > 2, np.inf, energy), grad


def pushed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, with a slope that pushes the first number over the edge from 1.5 on."""
    energy, grad = cliff(x)
    grad[:, 0, 0] -= np.where(x[:, 0, 0] > 1.5, 9, 0)
    return energy, grad


def ignored(progress: Any) -> None:
    """A callback: with one, every step goes through the host."""


class Bench:
    """An `Ebm` on a stand-in for a GPU."""

    def __init__(self, gpu: Gpu, plan: Plan, ebm: Ebm) -> None:
        self.gpu, self.plan, self.ebm = gpu, plan, ebm

    def both(self, n: int, **keywords: Any) -> tuple[np.ndarray, np.ndarray]:
        """Samples of the loop on the GPU and of that on the host."""
        self.gpu.log.clear()
        self.gpu.launched.clear()
        device = self.ebm.sample(n, **keywords)
        assert "measure" in self.gpu.launched
        log, launched = list(self.gpu.log), list(self.gpu.launched)
        self.gpu.launched.clear()
        host = self.ebm.sample(n, callback=ignored, **keywords)
        assert set(self.gpu.launched) == {"engine"}
        self.gpu.log[:], self.gpu.launched[:] = log, launched
        return device, host
