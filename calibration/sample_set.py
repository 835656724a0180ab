"""Final samples with what the FP32 model says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.ebm import Ebm
from ..runtime.errors import UsageError
from .sample_networks import SampleNetworks

__all__ = ["SampleSet", "score_samples"]


@dataclass(frozen=True)
class SampleSet:
    """Where N independent chains ended.

    Whoever drew the samples, energies and gradients are the FP32 model's: they say where the samples lie, not what
    the engine that drew them believed.

    Raises:
        UsageError: the arrays do not have one row per chain.
    """

    x: np.ndarray
    """[N, *S] float32."""
    energy: np.ndarray
    """[N], the FP32 energy."""
    grad: np.ndarray | None = None
    """[N, *S] float32, the FP32 gradient; None leaves out what needs it."""
    features: np.ndarray | None = None
    """[N, D], what the samples are compared by; None compares them by x itself."""
    labels: np.ndarray | None = None
    """[N] whole numbers from 0, which mode each sample is in (a classifier's answer); None finds modes by clustering."""

    def __post_init__(self) -> None:
        n = len(self.x)
        if self.energy.shape != (n,):
            raise UsageError(f"energy: expected one per sample, [{n}], got {list(self.energy.shape)}")
        if self.grad is not None and self.grad.shape != self.x.shape:
            raise UsageError(f"grad: expected the shape of x, {list(self.x.shape)}, got {list(self.grad.shape)}")
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != n):
            raise UsageError(f"features: expected [{n}, D], got {list(self.features.shape)}")
        if self.labels is not None and self.labels.shape != (n,):
            raise UsageError(f"labels: expected one per sample, [{n}], got {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.x)

    def first(self, count: int) -> SampleSet:
        """Returns the first samples of the set, all of them where it has no more than `count`."""
        if len(self) <= count:
            return self
        parts = (self.x, self.energy, self.grad, self.features, self.labels)
        return SampleSet(*(None if array is None else array[:count] for array in parts))  # type: ignore[arg-type]

    def join(self, more: SampleSet) -> SampleSet:
        """Returns both sets as one; what one of them lacks (gradients, features, labels) the whole lacks.

        Raises:
            UsageError: the samples have different shapes.
        """
        if self.x.shape[1:] != more.x.shape[1:]:
            raise UsageError(f"x: expected samples of {list(self.x.shape[1:])}, got {list(more.x.shape[1:])}")

        def both(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
            return None if first is None or second is None else np.concatenate([first, second])

        return SampleSet(
            np.concatenate([self.x, more.x]),
            np.concatenate([self.energy, more.energy]),
            both(self.grad, more.grad),
            both(self.features, more.features),
            both(self.labels, more.labels),
        )


def score_samples(
    ebm: Ebm,
    x: Any,
    *,
    cond: Mapping[str, Any] | None = None,
    networks: SampleNetworks | None = None,
    batch: int = 256,
) -> SampleSet:
    """Asks the FP32 model about samples.

    Args:
        ebm: the FP32 model, whichever engine drew the samples.
        x: [N, *S], any real type.
        cond: conditioning arrays by name, each [N, ...] or [1, ...].
        networks: what gives features and labels, asked batch by batch; None for neither.
        batch: most samples in one call.

    Raises:
        UsageError: an argument has a wrong name, type or shape.
    """
    states = np.ascontiguousarray(x, np.float32)
    features, classify = (None, None) if networks is None else (networks.features, networks.classify)
    energies, grads, rows, labels = [], [], [], []
    for first in range(0, len(states), batch):
        part = states[first : first + batch]
        own = {
            name: array if len(array) == 1 else array[first : first + batch]
            for name, array in ((name, np.asarray(values)) for name, values in (cond or {}).items())
        }
        energy, grad = ebm.score(part, cond=own)
        energies.append(energy)
        grads.append(grad)
        if features is not None:
            rows.append(np.asarray(features(part)).reshape(len(part), -1))
        if classify is not None:
            labels.append(np.asarray(classify(part)))
    if not energies:
        raise UsageError("x: expected at least one sample, got none")
    return SampleSet(
        states,
        np.concatenate(energies),
        np.concatenate(grads),
        np.concatenate(rows) if rows else None,
        np.concatenate(labels) if labels else None,
    )
