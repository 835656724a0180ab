"""How likely FP32's model finds samples and data, in nats: bounds by annealed importance sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.distinct_rows import distinct_rows
from ..runtime.ebm import Ebm
from ..runtime.errors import UsageError
from .metrics.likelihood import GaussianBase, LogPartition, UniformBase, log_partition_bounds
from .sample_set import SampleSet
from .temperature import NO_DENSITY, comes_to_rest, ends_without_noise, final_temperature

__all__ = ["Likelihood", "check_likelihood", "likelihood_bounds"]

_CHAINS = 64
_ROUNDING = 1e-6
"""Share of the bounds' width by which data may lie outside: they are float32, and the bounds need not be."""


@dataclass(frozen=True)
class Likelihood:
    """Bounds of mean log densities under p(x) = exp(-E(x) / T) / Z, E the FP32 energy; nothing passes or fails by them.

    Attributes:
        temperature: T, that of the sampler's last steps.
        base: where annealing began, in words.
        temperatures: steps between base and model.
        chains: chains forth; the way back has as many, or as many as there are samples.
        log_z: bounds of log Z, in nats, with their errors.
        engines: (lower, upper) bound of the mean log density of each engine's samples, in nats, by name.
        data: the same of the given data; None without, or where an energy of theirs is not finite.
    """

    temperature: float
    base: str
    temperatures: int
    chains: int
    log_z: LogPartition
    engines: dict[str, tuple[float | None, float]]
    data: tuple[float | None, float] | None = None


def check_likelihood(
    temperatures: int, config: SamplerConfig, cond: Mapping[str, np.ndarray], data: np.ndarray | None
) -> None:
    """Refuses what has no likelihood, before anything is drawn.

    Args:
        temperatures: as `likelihood_bounds` takes it.
        config: the sampler's settings.
        cond: the rows of the conditioning inputs that the chains have, each [n, ...].
        data: [M, *S] or None.

    Raises:
        UsageError: chains come to rest or end without noise, have several conditions, or data lie where the model has no density.
    """
    if temperatures < 2:
        raise UsageError(f"--likelihood: expected at least 2 temperatures, got {temperatures}; 200 is a good start")
    if comes_to_rest(config):
        raise UsageError("--likelihood: this bundle's chains come to rest, so its samples are those of no density")
    if ends_without_noise(config):
        raise UsageError(f"--likelihood: {NO_DENSITY}")
    if cond:
        distinct, _ = distinct_rows(cond.values(), len(next(iter(cond.values()))))
        if len(distinct) > 1:
            raise UsageError(
                f"--likelihood: each condition has a density of its own, and there are {len(distinct)}; give one row with "
                + " ".join(f"--cond {name}=FILE.npy" for name in cond)
            )
    if data is not None and not np.isfinite(data).all():
        raise UsageError("--data: expected finite numbers, got NaN or infinity")
    if data is not None and config.bounds is not None:
        low, high = config.bounds
        room = _ROUNDING * (high - low)
        if data.min() < low - room or data.max() > high + room:
            raise UsageError(
                f"--data: numbers from {data.min():g} to {data.max():g}, and the sampler's bounds are {low:g} to {high:g}: the "
                "model has no density outside of them"
            )


def likelihood_bounds(
    fp32: Ebm,
    reference: SampleSet,
    sets: Mapping[str, SampleSet],
    *,
    temperatures: int,
    cond: Mapping[str, np.ndarray],
    data: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Likelihood:
    """Brackets log Z of the FP32 model, and with it the mean log density of every sample set and of data.

    Annealing begins at the uniform density over the sampler's bounds, outside of which chains cannot go; without bounds at a
    normal one as wide as FP32's samples. Then the energy itself has to hold the density together: where it is bounded above,
    there is no Z, and the bounds drift apart as temperatures are added.

    Args:
        fp32: the model; asked about 900 times `temperatures`.
        reference: FP32's samples, which the way back starts from.
        sets: samples by engine, with their FP32 energies.
        temperatures: steps between base and model.
        cond: one row of every conditioning input, [1, ...] by name.
        data: [M, *S].
        seed: same seed, same bounds.
        progress: called with (temperatures passed, in all).
    """
    config = fp32.sampler
    temperature = final_temperature(config)
    samples = reference.x.astype(np.float64)
    base: GaussianBase | UniformBase
    if config.bounds is None:
        base = GaussianBase(float(samples.mean()), float(samples.std()) or 1.0)
        said = f"a normal density of mean {base.mean:.3g} and deviation {base.deviation:.3g}"
    else:
        base = UniformBase(*config.bounds)
        said = f"the uniform density from {base.low:g} to {base.high:g}"
        samples = np.clip(samples, *config.bounds)  # a last drift may lead a little out of them
    log_z = log_partition_bounds(
        lambda x: fp32.score(x, cond=cond),
        reference.x.shape[1:],
        base,
        samples=samples,
        temperature=temperature,
        temperatures=temperatures,
        chains=_CHAINS,
        seed=seed,
        progress=progress,
    )

    def bounds(energies: np.ndarray) -> tuple[float | None, float] | None:
        return log_z.log_likelihood(energies, temperature) if np.isfinite(energies).all() else None

    return Likelihood(
        temperature=temperature,
        base=said,
        temperatures=temperatures,
        chains=_CHAINS,
        log_z=log_z,
        engines={name: pair for name, own in sets.items() if (pair := bounds(own.energy)) is not None},
        data=None if data is None else bounds(fp32.score(data, cond=cond)[0]),
    )
