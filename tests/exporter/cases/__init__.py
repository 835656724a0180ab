"""A zoo of small energies, one file per family of operations, for the tests of everything that follows tracing.

A family is a module of this package with a dictionary ``CASES: dict[str, Case]``. The modules import torch alone,
so that they say nothing about how the exporter works; ``test_cases.py`` checks the zoo itself.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

__all__ = [
    "FAMILIES",
    "REFUSED",
    "Case",
    "CondSpec",
    "all_cases",
    "arguments",
    "draw",
    "parameter_names",
    "reference_energy",
]

FAMILIES = (
    "activation",
    "attention",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "literature",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "resampling",
    "third_party",
)


REFUSED = {
    "convolution/conv2d_kernel_from_input": 4,
    "elementwise/gaussian_nll": 3,
    "linear/embedding_bag": 4,
    "pooling/max_unpool2d": 4,
    "resampling/grid_sample_border": 4,
    "resampling/grid_sample_image": 4,
    "resampling/grid_sample_nearest": 4,
}
"""Cases that the exporter does not take, with the exit code that it must end with instead of a graph."""


@dataclass(frozen=True)
class CondSpec:
    """How to draw one conditioning input.

    Attributes:
        shape: Shape without the batch dimension.
        dtype: "float32" (normal, or uniform in [low, high) when both are given), "int64" (uniform in [low, high)) or
            "bool" (each true with probability 0.4, but the first along the last dimension is always false, so that
            a mask that hides keys never hides all of them).
        low: Lowest value.
        high: Value above the highest one.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Case:
    """One energy E(x, *cond) -> [B] and how to draw inputs for it.

    Attributes:
        build: Returns the module, in eval mode and with the same weights every time.
        x: Shape of the refined input without the batch dimension.
        cond: Conditioning inputs by the name of their parameter of ``forward``.
        wrt: Name of the refined parameter of ``forward``; None means "x".
        energy: How the output becomes the energy: "energy" ([B] or [B, 1]), "negative" or "logsumexp" ([B, K]).
        x_scale: Standard deviation of x.
        positive: Draw |x| + 0.2 instead of x.
        range: Draw x uniformly in this interval instead.
        spread: Draw the numbers of each sample as a shuffled, jittered grid over [-2, 2] times x_scale, so that no two
            of them are close: for operations that compare numbers with each other.
    """

    build: Callable[[], nn.Module]
    x: tuple[int, ...]
    cond: Mapping[str, CondSpec] = field(default_factory=dict)
    wrt: str | None = None
    energy: str = "energy"
    x_scale: float = 1.0
    positive: bool = False
    range: tuple[float, float] | None = None
    spread: bool = False


def _draw_x(case: Case, generator: np.random.Generator, batch: int) -> np.ndarray:
    shape = (batch, *case.x)
    if case.range is not None:
        return generator.uniform(*case.range, size=shape)
    if case.spread:
        count = int(np.prod(case.x))
        grid = np.stack([generator.permutation(count) for _ in range(batch)]) + generator.uniform(
            0.3, 0.7, (batch, count)
        )
        return (case.x_scale * (4 * grid / count - 2)).reshape(shape)
    x = case.x_scale * generator.standard_normal(shape)
    return np.abs(x) + 0.2 if case.positive else x


def _draw_cond(spec: CondSpec, generator: np.random.Generator, batch: int) -> np.ndarray:
    shape = (batch, *spec.shape)
    if spec.dtype == "bool":
        mask = generator.random(shape) < 0.4
        mask[..., 0] = False
        return mask
    if spec.dtype == "int64":
        if spec.low is None or spec.high is None:
            raise ValueError(f"an int64 conditioning input needs low and high, got {spec}")
        return generator.integers(int(spec.low), int(spec.high), shape)
    if spec.dtype != "float32":
        raise ValueError(f"expected dtype float32, int64 or bool, got {spec.dtype!r}")
    if spec.low is not None and spec.high is not None:
        return generator.uniform(spec.low, spec.high, shape).astype(np.float32)
    return generator.standard_normal(shape).astype(np.float32)


def draw(case: Case, seed: int, batch: int) -> dict[str, np.ndarray]:
    """Draws inputs for a case.

    Args:
        case: The case.
        seed: Same seed, same inputs.
        batch: Number of samples B.

    Returns:
        Arrays by parameter name: the refined one, float32 [B, *case.x], then the conditioning ones in the order of
        ``case.cond``. Names, not places: ``arguments`` puts them in the order of ``forward``.
    """
    generator = np.random.default_rng(seed)
    inputs = {case.wrt or "x": _draw_x(case, generator, batch).astype(np.float32)}
    for name, spec in case.cond.items():
        inputs[name] = _draw_cond(spec, generator, batch)
    return inputs


def parameter_names(module: nn.Module, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of the drawn inputs in the order of the parameters of ``module.forward``."""
    names = [name for name in inspect.signature(module.forward).parameters if name in inputs]
    if len(names) != len(inputs):
        raise ValueError(f"forward of {type(module).__name__} has the parameters {names}, the case has {list(inputs)}")
    return names


def arguments(
    module: nn.Module, inputs: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    """Turns drawn inputs into the positional arguments of the module's forward.

    Args:
        module: The module of the case.
        inputs: What ``draw`` returned.
        dtype: Type of the floating-point arguments.

    Returns:
        New tensors, in the order of the parameters of ``module.forward``.
    """
    tensors = (torch.tensor(inputs[name]) for name in parameter_names(module, inputs))
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)


def reference_energy(case: Case, output: torch.Tensor) -> torch.Tensor:
    """Turns the output of the module into the energy [B], as ``case.energy`` says."""
    if case.energy == "logsumexp":
        return -torch.logsumexp(output, dim=1)
    if output.dim() == 2 and output.shape[1] == 1:
        output = output.squeeze(1)
    return -output if case.energy == "negative" else output


def all_cases() -> dict[str, Case]:
    """Returns the cases of every family, under "family/name"."""
    return {
        f"{family}/{name}": case
        for family in FAMILIES
        for name, case in importlib.import_module(f"{__name__}.{family}").CASES.items()
    }
