"""How a sampler's settings become the steps that the loop takes: one entry for each sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .chain_random import ChainRandom
from .config import SamplerConfig
from .errors import UsageError
from .samplers import langevin, mala, surrogate
from .samplers.langevin import Evaluate
from .samplers.surrogate import Energy
from .schedule import noise_schedule, temperature_schedule

__all__ = ["Method", "build_method", "check_used", "warm_up_steps"]


class Method(NamedTuple):
    """A sampler with its settings, for one batch of chains.

    Attributes:
        init: (position, evaluate) -> state.
        step: (random, state, evaluate, step_size, step) -> (state, info), with step_size a number or [B], and step
            counted from 0.
        refresh: (state, evaluate) -> the same state with energy and gradient evaluated again, for when the engine or its
            scale changes between two steps.
        rejects: whether it can reject a step, so that numbers that are not finite are no reason to stop. Its info has
            the `acceptance` [B] that the step size is adapted to.
        target: the acceptance to adapt to.
        stride: steps that one call of `step` takes after the warm-up; fewer at the end where there are fewer left.
    """

    init: Callable[[np.ndarray, Evaluate], Any]
    step: Callable[[ChainRandom, Any, Evaluate, Any, int], tuple[Any, Any]]
    refresh: Callable[[Any, Evaluate], Any]
    rejects: bool = False
    target: float = 0.0
    stride: int = 1


_ONLY_FOR = {
    "order": ("langevin",),
    "warmup": ("mala", "exact"),
    "target_accept": ("mala", "exact"),
    "block": ("exact",),
}
"""Settings that only some samplers use; the others are for all."""

# Acceptances at which a chain moves fastest in many dimensions (Roberts and Rosenthal, "Optimal scaling of discrete
# approximations to Langevin diffusions", JRSS B 1998).
_MALA_TARGET = 0.574


def build_method(config: SamplerConfig, position: np.ndarray, energy: Energy | None = None) -> Method:
    """Builds what runs a batch of chains.

    Args:
        config: the sampler's settings.
        position: [B, *S] float32, in the shape of the batch; its numbers are not looked at.
        energy: the energy to be sampled where the engine's own is a surrogate of it; None where it is not.

    Raises:
        UsageError: the settings leave the sampler nothing that it can sample.
    """
    if energy is not None:
        return _surrogate(config, position, energy)
    return _BUILDERS[config.sampler](config, position)


def warm_up_steps(config: SamplerConfig) -> int:
    """Returns the number of steps in which a sampler that adapts does so."""
    return config.steps // 4 if config.warmup is None else config.warmup


def check_used(sampler: str, given: Iterable[str]) -> None:
    """Refuses settings, given for one call, that a sampler has no use for.

    A bundle's own settings are not looked at: they are for its own sampler.

    Args:
        sampler: one of `SamplerConfig.sampler`, or "exact" for exact sampling.
        given: names of the settings.

    Raises:
        UsageError: a setting is for other samplers only.
    """
    for name in given:
        samplers = _ONLY_FOR.get(name)
        if samplers is not None and sampler not in samplers:
            asked = "exact sampling" if sampler == "exact" else f"the sampler {sampler!r}"
            raise UsageError(f"{name} has no effect on {asked}, only on {', '.join(samplers)}: leave it out")


def _langevin(config: SamplerConfig, position: np.ndarray) -> Method:
    sigmas = noise_schedule(config).tolist()
    kernel = langevin.build_kernel(config.order, config.grad_clip, config.grad_clip_mode, config.bounds)
    noise = np.zeros_like(position)
    # A step reads one position and writes another, so two buffers take turns. The start is neither: it is not ours.
    buffers = [langevin.Buffers(np.empty_like(position), np.empty_like(position))]
    buffers.append(langevin.Buffers(np.empty_like(position), buffers[0].drift))

    def step(
        random: ChainRandom, state: langevin.State, evaluate: Evaluate, step_size: float, step: int
    ) -> tuple[langevin.State, langevin.Info]:
        sigma = sigmas[step]
        if sigma > 0:  # else the numbers of an earlier step are multiplied by zero
            random.normal(out=noise)
        return kernel(noise, state, evaluate, step_size, sigma, buffers[step % 2])

    def refresh(state: langevin.State, evaluate: Evaluate) -> langevin.State:
        # "noise-drift" uses no gradient of an earlier step.
        return state if config.order == "noise-drift" else langevin.init(state.position, evaluate)

    return Method(lambda start, evaluate: langevin.init(start, evaluate, config.order), step, refresh)


def _mala(config: SamplerConfig, position: np.ndarray) -> Method:
    temperatures = _temperatures_above_zero(config)
    kernel = mala.build_kernel(config.grad_clip, config.grad_clip_mode, config.bounds)

    def step(
        random: ChainRandom, state: mala.State, evaluate: Evaluate, step_size: Any, step: int
    ) -> tuple[mala.State, mala.Info]:
        return kernel(random, state, evaluate, step_size, temperatures[step])

    return Method(
        _inside(config, mala.init),
        step,
        lambda state, evaluate: mala.init(state.position, evaluate),
        rejects=True,
        target=config.target_accept or _MALA_TARGET,
    )


def _surrogate(config: SamplerConfig, position: np.ndarray, energy: Energy) -> Method:
    temperatures = _temperatures_above_zero(config)
    if not np.allclose(temperatures, temperatures[0], rtol=1e-6):
        source = "temperature" if config.noise is None else "noise^2 / (2 * step_size)"
        raise UsageError(
            f"exact sampling needs one temperature for all steps, and {source} goes from {temperatures[0]:.6g} to "
            f"{temperatures[-1]:.6g}: set noise=None and a temperature"
        )
    single = mala.build_kernel(config.grad_clip, config.grad_clip_mode, config.bounds)
    block = surrogate.build_kernel(single)
    warm_up = warm_up_steps(config)
    unknown = np.full(len(position), np.nan, dtype=np.float32)

    def step(
        random: ChainRandom, state: surrogate.State, evaluate: Evaluate, step_size: Any, step: int
    ) -> tuple[surrogate.State, Any]:
        if step < warm_up:  # not corrected yet, so the step size can learn from each step and E need not be asked
            inner = mala.State(state.position, state.surrogate, state.grad)
            inner, told = single(random, inner, evaluate, step_size, temperatures[0])
            return surrogate.State(inner.position, unknown, inner.grad, inner.energy), told
        count = min(config.block, config.steps - step)
        return block(random, state, evaluate, energy, step_size, temperatures[0], count)

    return Method(
        _inside(config, lambda start, evaluate: surrogate.init(start, evaluate, energy)),
        step,
        lambda state, evaluate: surrogate.init(state.position, evaluate, energy),
        rejects=True,
        target=config.target_accept or _MALA_TARGET,
        stride=config.block,
    )


_BUILDERS: dict[str, Callable[[SamplerConfig, np.ndarray], Method]] = {"langevin": _langevin, "mala": _mala}


def _inside(
    config: SamplerConfig, init: Callable[[np.ndarray, Evaluate], Any]
) -> Callable[[np.ndarray, Evaluate], Any]:
    """Returns an `init` that moves a start into the bounds first: outside them there is no energy to accept by."""
    bounds = config.bounds
    if bounds is None:
        return init
    return lambda start, evaluate: init(np.clip(start, *bounds), evaluate)


def _temperatures_above_zero(config: SamplerConfig) -> list[float]:
    temperatures: list[float] = temperature_schedule(config).tolist()
    if min(temperatures) <= 0:
        raise UsageError(
            f"a sampler that accepts and rejects needs a temperature above 0 at every step, got {min(temperatures):g}"
            + (": set noise=None and a temperature" if config.noise is not None else "")
        )
    return temperatures
