"""The states that engines are checked at, and PyTorch's answers there."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch

from ..calibration import Trajectory, record_trajectory
from ..runtime.backends.function import FunctionEngine
from ..runtime.config import SamplerConfig
from .contract import rows_like
from .energy import Energy
from .reference import Reference
from .trace import graph_dtype, input_names

__all__ = ["CHAINS", "fresh_conditions", "make_golden", "run_in_pytorch"]

CHAINS = 8
"""Samples at each stage; the batch sizes 1, 3 and 8 are slices of them."""

_ROUNDING = 1e-6
"""Size of a disturbance, relative to the state: some eight units in the last place of float32, as sums collect them."""
_COPIES = 5

_LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}
_LOW_ROUNDINGS, _LOW_COPIES = 2.0, 8
"""In a low type the weights are rounded, and each layer's numbers: as many kinks are met as by copies that are this many of the type's
roundings away. With 8 of them no engine of 32 with ReLUs was off by more than 0.8 of the largest error times two."""


def make_golden(
    energy: Energy,
    config: SamplerConfig,
    *,
    seed: int = 0,
    data: np.ndarray | None = None,
    trajectory: Trajectory | None = None,
    precisions: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Runs the model's sampler in PyTorch and evaluates it in float64 at stages along the way.

    Args:
        energy: the model.
        config: the sampler's settings.
        seed: of the chains and the conditioning inputs, which tracing never saw.
        data: states to start from, for init="data".
        trajectory: these chains, where they have been run already.
        precisions: of engines that will be compared; for FP16 and BF16 the answers hold what these types may be off by.
        progress: called with (done, in all).

    Returns:
        The arrays of golden.npz: x [G, N, *S], step [G], grad_scale [G, N], energy [G, N] and grad [G, N, *S] in
        float64, reference_error [G, N] (largest relative error of PyTorch's own float32 gradient at the state and at
        copies of it that differ by rounding), reference_energy_error [G, N] (likewise, absolute), the same with ".fp16" or ".bf16"
        behind the name (of the float32 model with its weights in that type), and "cond.NAME".

    Raises:
        DivergenceError: the chains diverge in PyTorch itself.
    """
    if trajectory is None:
        trajectory = run_in_pytorch(energy, config, seed=seed, data=data, progress=progress)
    return _answer(energy, trajectory, fresh_conditions(energy, CHAINS, seed), precisions)


def run_in_pytorch(
    energy: Energy,
    config: SamplerConfig,
    *,
    seed: int = 0,
    data: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """The chains of the golden states; arguments as for `make_golden`.

    Raises:
        DivergenceError: the chains diverge.
    """
    shape, cond = tuple(energy.x.shape[1:]), fresh_conditions(energy, CHAINS, seed)
    with FunctionEngine(Reference(energy, torch.float32)) as engine:
        return record_trajectory(engine, config, shape, CHAINS, seed=seed, cond=cond, data=data, progress=progress)


def fresh_conditions(energy: Energy, count: int, seed: int) -> dict[str, np.ndarray]:
    """Conditioning inputs [count, ...] by graph input name: observations from all over their rows, or others like them where they are few."""
    names = input_names(energy)
    found = {}
    for index, (name, rows) in enumerate(energy.observations.items()):
        if len(rows) < count:
            rows = rows_like(rows, count, seed + index)
        found[names[name]] = _plain(rows[torch.linspace(0, len(rows) - 1, count).round().long()])
    return found


def _plain(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(graph_dtype(tensor)).numpy()


def _answer(
    energy: Energy, trajectory: Trajectory, cond: dict[str, np.ndarray], precisions: Collection[str]
) -> dict[str, np.ndarray]:
    single = Reference(energy, torch.float32)
    exact = _double(energy, trajectory.x[0], cond) or single
    answers = [exact(x, **cond) for x in trajectory.x]
    energies, grads = (np.stack([answer[index].astype(np.float64) for answer in answers]) for index in (0, 1))
    stages = len(trajectory.step)
    found = {
        "x": trajectory.x,
        "step": trajectory.step,
        "grad_scale": trajectory.grad_scale,
        "energy": energies,
        "grad": grads,
    }
    found |= _errors(single, found, cond, _ROUNDING, _COPIES)
    for precision in (name for name in _LOW if name in precisions):
        rounded = Reference(energy, torch.float32, weights=_LOW[precision])
        size = _LOW_ROUNDINGS * torch.finfo(_LOW[precision]).eps / 2
        errors = _errors(rounded, found, cond, size, _LOW_COPIES)
        found |= {f"{name}.{precision}": array for name, array in errors.items()}
    repeated = {f"cond.{name}": np.broadcast_to(array, (stages, *array.shape)).copy() for name, array in cond.items()}
    return found | repeated


def _errors(
    rough: Reference, exact: dict[str, np.ndarray], cond: dict[str, np.ndarray], size: float, copies: int
) -> dict[str, np.ndarray]:
    """The largest errors of a reference, at each state and at copies of it."""
    generator = np.random.default_rng(0)
    grad_errors, energy_errors = [], []
    for x, value, grad in zip(exact["x"], exact["energy"], exact["grad"], strict=True):
        length = np.linalg.norm(grad.reshape(len(x), -1), axis=1)
        grad_error, energy_error = np.zeros(len(x)), np.zeros(len(x))
        for nearby in _nearby(x, generator, size, copies):
            rough_value, rough_grad = rough(nearby, **cond)
            off = np.linalg.norm((rough_grad - grad).reshape(len(x), -1), axis=1)
            grad_error = np.maximum(grad_error, np.divide(off, length, out=np.zeros(len(x)), where=length > 0))
            energy_error = np.maximum(energy_error, np.abs(rough_value - value))
        grad_errors.append(grad_error)
        energy_errors.append(energy_error)
    return {"reference_error": np.stack(grad_errors), "reference_energy_error": np.stack(energy_errors)}


def _nearby(x: np.ndarray, generator: np.random.Generator, rounding: float, copies: int) -> list[np.ndarray]:
    """The states [N, *S], and copies of them that differ by about what a type makes of their sums.

    The gradient of a relu jumps where a number is zero. Two correct engines round such a number to different
    sides, so their gradients differ by a whole term; these copies show by how much that can be at these states.
    """
    per_sample = (len(x), *[1] * (x.ndim - 1))
    size = np.sqrt(np.mean(np.square(x.reshape(len(x), -1), dtype=np.float64), axis=1)).reshape(per_sample)
    return [x] + [(x + rounding * size * generator.standard_normal(x.shape)).astype(np.float32) for _ in range(copies)]


def _double(energy: Energy, x: np.ndarray, cond: dict[str, np.ndarray]) -> Reference | None:
    """The model in float64, or None where it cannot run so (a type written into its forward, say)."""
    try:
        reference = Reference(energy, torch.float64)
        reference(x, **cond)
    except (RuntimeError, TypeError, ValueError):
        return None
    return reference
