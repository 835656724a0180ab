"""How a sampler's settings become the steps that the loop takes: one entry for each sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .blocks import ends_of_blocks
from .chain_random import ChainRandom
from .config import WARMS_UP, SamplerConfig
from .errors import UsageError
from .samplers import hmc, langevin, mala, optimize, preconditioned, surrogate, tempering, underdamped
from .samplers.langevin import Evaluate
from .samplers.surrogate import Energy
from .schedule import distinct, noise_schedule, temperature_schedule

__all__ = [
    "Method",
    "build_method",
    "check_used",
    "evaluations",
    "knows_energies",
    "replicas",
    "settings_of",
    "warm_up_steps",
]


class Method(NamedTuple):
    """A sampler with its settings, for one batch of chains.

    Attributes:
        init: (random, position, evaluate) -> state.
        step: (random, state, evaluate, step_size, step) -> (state, info), with step_size a number or [B], and step
            counted from 0. Positions and velocities, and what else a sampler that rejects has, are left alone by the step that
            starts from them and overwritten by the one after it; other energies and gradients are the evaluation's own.
        refresh: (state, evaluate) -> the same state with energy and gradient evaluated again, for when the engine or its
            scale changes between two steps.
        rejects: whether it can reject a step, so that numbers that are not finite are no reason to stop. Its info has
            the `acceptance` [B] that the step size is adapted to.
        target: the acceptance to adapt to.
        warm_up: number of steps in which it adapts; 0 for none.
        end: step -> the number of steps done after a call of `step` that begins with it; None for one more.
    """

    init: Callable[[ChainRandom, np.ndarray, Evaluate], Any]
    step: Callable[[ChainRandom, Any, Evaluate, Any, int], tuple[Any, Any]]
    refresh: Callable[[Any, Evaluate], Any]
    rejects: bool = False
    target: float = 0.0
    warm_up: int = 0
    end: Callable[[int], int] | None = None


_FEWEST_ADAPTED = 5
"""Steps below which step sizes are left as they are: dual averaging begins with ten times the time step. Of MALA and HMC on Gaussians of 2
to 200 dimensions, whose given step was accepted at 0.95 or more, one step left 0.00, two 0.00 to 0.5, five 0.5 to 0.85."""
_REJECTING = ("mala", "hmc", "tempering", "exact")
_ONLY_FOR = {
    "order": ("langevin",),
    "bounds_mode": ("langevin", "preconditioned", "underdamped", "optimize"),
    "warmup": (*WARMS_UP, "exact"),
    "target_accept": _REJECTING,
    "leapfrog": ("hmc",),
    "friction": ("underdamped",),
    "momentum": ("optimize",),
    "ladder": ("tempering",),
    "block": ("exact",),
    **dict.fromkeys(("noise", "temperature", "anneal"), ("langevin", "preconditioned", "underdamped", *_REJECTING)),
}
"""Settings that only some samplers use; the others are for all."""

# Acceptances at which a chain moves fastest in many dimensions: Roberts and Rosenthal, "Optimal scaling of discrete
# approximations to Langevin diffusions", JRSS B 1998; Beskos et al., "Optimal tuning of the hybrid Monte Carlo algorithm",
# Bernoulli 2013.
_MALA_TARGET = 0.574
_HMC_TARGET = 0.651


def build_method(
    config: SamplerConfig,
    position: np.ndarray,
    energy: Energy | None = None,
    free: np.ndarray | None = None,
    every: int | None = None,
) -> Method:
    """Builds what runs a batch of chains.

    Args:
        config: the sampler's settings.
        position: [B, *S] float32, in the shape of the batch; its numbers are not looked at.
        energy: the energy to be sampled where the engine's own is a surrogate of it; None where it is not.
        free: [B, *S] or [1, *S] float32, 1 where a number of x may move, else 0; None lets all move. Noise and gradients
            are 0 elsewhere already.
        every: number of steps of which no call of `step` goes beyond a multiple; None for no such place.

    Raises:
        UsageError: the settings leave the sampler nothing that it can sample.
    """
    if energy is not None:
        return _surrogate(config, position, energy, every)
    if config.sampler == "preconditioned":
        return _preconditioned(config, position, free)
    return _BUILDERS[config.sampler](config, position)


def replicas(config: SamplerConfig) -> int:
    """Returns how many states each chain has; a step evaluates all of them, those of one chain after one another."""
    return len(config.ladder) if config.sampler == "tempering" else 1


def evaluations(config: SamplerConfig) -> int:
    """Returns how often one step asks the engine."""
    return config.leapfrog if config.sampler == "hmc" else 1


def knows_energies(config: SamplerConfig, *, exact: bool = False) -> bool:
    """Returns whether the energy of a state is that of its position, which in the order "noise-drift" it is not.

    Args:
        config: the sampler's settings.
        exact: whether it is exact sampling, for which the order has no meaning.
    """
    return exact or config.sampler != "langevin" or config.order != "noise-drift"


def warm_up_steps(config: SamplerConfig) -> int:
    """Returns the number of steps in which a sampler that adapts does so."""
    if config.warmup is not None:
        return config.warmup
    quarter = config.steps // 4
    return 0 if config.sampler != "preconditioned" and quarter < _FEWEST_ADAPTED else quarter


def settings_of(sampler: str) -> set[str]:
    """Returns the names of the settings that a sampler uses; see `check_used` for its argument."""
    return {name for name in SamplerConfig.field_names() if sampler in _ONLY_FOR.get(name, (sampler,))}


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
            others = ", ".join("exact sampling" if other == "exact" else other for other in samplers)
            raise UsageError(f"{name} has no effect on {asked}, only on {others}: leave it out")


def _langevin(config: SamplerConfig, position: np.ndarray) -> Method:
    sigmas = noise_schedule(config)
    kernel = langevin.build_kernel(
        config.order, config.grad_clip, config.grad_clip_mode, config.bounds, config.bounds_mode
    )
    noise = np.zeros_like(position)
    # A step reads one position and writes another, so two buffers take turns. The start is neither: it is not ours.
    buffers = [langevin.Buffers(np.empty_like(position), np.empty_like(position))]
    buffers.append(langevin.Buffers(np.empty_like(position), buffers[0].drift))

    def step(
        random: ChainRandom, state: langevin.State, evaluate: Evaluate, step_size: float, step: int
    ) -> tuple[langevin.State, langevin.Info]:
        sigma = sigmas.item(step)
        numbers = random.normal(out=noise) if sigma > 0 else noise  # whose finite numbers are multiplied by zero
        return kernel(numbers, state, evaluate, step_size, sigma, buffers[step % 2])

    def refresh(state: langevin.State, evaluate: Evaluate) -> langevin.State:
        # "noise-drift" uses no gradient of an earlier step.
        return state if config.order == "noise-drift" else _evaluated(state, evaluate)

    return Method(lambda random, start, evaluate: langevin.init(start, evaluate, config.order), step, refresh)


def _preconditioned(config: SamplerConfig, position: np.ndarray, free: np.ndarray | None) -> Method:
    sigmas = noise_schedule(config)
    kernel = preconditioned.build_kernel(config.grad_clip, config.grad_clip_mode, config.bounds, config.bounds_mode)
    warm_up = warm_up_steps(config)
    noise, scratch, clip = (np.empty_like(position) for _ in range(3))
    buffers = [preconditioned.Buffers(np.empty_like(position), scratch, clip) for _ in range(2)]

    def step(
        random: ChainRandom, state: preconditioned.State, evaluate: Evaluate, step_size: float, step: int
    ) -> tuple[preconditioned.State, preconditioned.Info]:
        if warm_up // 2 <= step < warm_up:  # in the first half a chain still comes from its start
            state = preconditioned.learn(state)
        elif step == warm_up > 0:
            state = preconditioned.settle(state, free)
        numbers = random.normal(out=noise)
        return kernel(numbers, state, evaluate, step_size, sigmas.item(step), buffers[step % 2])

    return Method(
        lambda random, start, evaluate: preconditioned.init(start, evaluate), step, _evaluated, warm_up=warm_up
    )


def _underdamped(config: SamplerConfig, position: np.ndarray) -> Method:
    temperatures = temperature_schedule(config)
    kernel = underdamped.build_kernel(
        config.friction, config.grad_clip, config.grad_clip_mode, config.bounds, config.bounds_mode
    )
    scratch, noise = np.empty_like(position), np.empty_like(position)
    buffers = [underdamped.Buffers(np.empty_like(position), np.empty_like(position), scratch, noise) for _ in range(2)]

    def step(
        random: ChainRandom, state: underdamped.State, evaluate: Evaluate, step_size: float, step: int
    ) -> tuple[underdamped.State, underdamped.Info]:
        return kernel(random, state, evaluate, step_size, temperatures.item(step), buffers[step % 2])

    return Method(
        lambda random, start, evaluate: underdamped.init(random, start, evaluate, temperatures.item(0)),
        step,
        _evaluated,
    )


def _optimize(config: SamplerConfig, position: np.ndarray) -> Method:
    kernel = optimize.build_kernel(
        config.momentum, config.grad_clip, config.grad_clip_mode, config.bounds, config.bounds_mode
    )
    scratch = np.empty_like(position)
    buffers = [optimize.Buffers(np.empty_like(position), np.empty_like(position), scratch) for _ in range(2)]
    return Method(
        lambda random, start, evaluate: optimize.init(start, evaluate),
        lambda random, state, evaluate, step_size, step: kernel(state, evaluate, step_size, buffers[step % 2]),
        _evaluated,
    )


def _mala(config: SamplerConfig, position: np.ndarray) -> Method:
    kernel = mala.build_kernel(config.grad_clip, config.grad_clip_mode, config.bounds)
    return _metropolis(config, position, kernel, _MALA_TARGET)


def _hmc(config: SamplerConfig, position: np.ndarray) -> Method:
    kernel = hmc.build_kernel(config.grad_clip, config.grad_clip_mode, config.bounds, config.leapfrog)
    return _metropolis(config, position, kernel, _HMC_TARGET)


def _metropolis(config: SamplerConfig, position: np.ndarray, kernel: mala.Kernel, target: float) -> Method:
    temperatures = _temperatures_above_zero(config)
    buffers = mala.new_buffers(position.shape, 2)

    def step(
        random: ChainRandom, state: mala.State, evaluate: Evaluate, step_size: Any, step: int
    ) -> tuple[mala.State, mala.Info]:
        return kernel(random, state, evaluate, step_size, temperatures.item(step), buffers[step % 2])

    return Method(
        lambda random, start, evaluate: mala.init(_inside(config, start), evaluate),
        step,
        lambda state, evaluate: mala.init(state.position, evaluate),
        rejects=True,
        target=config.target_accept or target,
        warm_up=warm_up_steps(config),
    )


def _tempering(config: SamplerConfig, position: np.ndarray) -> Method:
    temperatures = _temperatures_above_zero(config)
    ladder = np.array(config.ladder)
    kernel = tempering.build_kernel(
        mala.build_kernel(config.grad_clip, config.grad_clip_mode, config.bounds), len(ladder)
    )
    buffers = mala.new_buffers((len(position) * len(ladder), *position.shape[1:]), 2)

    def step(
        random: ChainRandom, state: tempering.State, evaluate: Evaluate, step_size: Any, step: int
    ) -> tuple[tempering.State, tempering.Info]:
        return kernel(random, state, evaluate, step_size, temperatures.item(step) * ladder, step, buffers[step % 2])

    return Method(
        lambda random, start, evaluate: tempering.init(_inside(config, start), evaluate, len(ladder)),
        step,
        lambda state, evaluate: tempering.refresh(state, evaluate, len(ladder)),
        rejects=True,
        target=config.target_accept or _MALA_TARGET,
        warm_up=warm_up_steps(config),
    )


def _surrogate(config: SamplerConfig, position: np.ndarray, energy: Energy, every: int | None) -> Method:
    temperatures = _temperatures_above_zero(config)
    if not np.allclose(distinct(temperatures), temperatures[0], rtol=1e-6, atol=0):
        source = "temperature" if config.noise is None else "noise^2 / (2 * step_size)"
        raise UsageError(
            f"exact sampling needs one temperature for all steps, and {source} goes from {temperatures[0]:.6g} to "
            f"{temperatures[-1]:.6g}: set noise=None and a temperature (--noise none --temperature T)"
        )
    single = mala.build_kernel(config.grad_clip, config.grad_clip_mode, config.bounds)
    block = surrogate.build_kernel(single)
    warm_up = warm_up_steps(config)
    buffers = mala.new_buffers(position.shape, 3)  # one of them holds the state that a block starts from
    unknown = np.full(len(position), np.nan, dtype=np.float32)
    end = ends_of_blocks(config.block, config.steps, warm_up, every)

    def step(
        random: ChainRandom, state: surrogate.State, evaluate: Evaluate, step_size: Any, step: int
    ) -> tuple[surrogate.State, Any]:
        turns = [one for one in buffers if one.flight.position is not state.position][:2]
        if step < warm_up:  # not corrected yet, so the step size can learn from each step and E need not be asked
            inner = mala.State(state.position, state.surrogate, state.grad)
            inner, told = single(random, inner, evaluate, step_size, temperatures.item(0), turns[0])
            return surrogate.State(inner.position, unknown, inner.grad, inner.energy), told
        return block(random, state, evaluate, energy, step_size, temperatures.item(0), end(step) - step, turns)

    return Method(
        lambda random, start, evaluate: surrogate.init(_inside(config, start), evaluate, energy),
        step,
        lambda state, evaluate: surrogate.init(state.position, evaluate, energy),
        rejects=True,
        target=config.target_accept or _MALA_TARGET,
        warm_up=warm_up,
        end=end,
    )


_BUILDERS: dict[str, Callable[[SamplerConfig, np.ndarray], Method]] = {
    "langevin": _langevin,
    "underdamped": _underdamped,
    "mala": _mala,
    "hmc": _hmc,
    "tempering": _tempering,
    "optimize": _optimize,
}


def _evaluated(state: Any, evaluate: Evaluate) -> Any:
    """Returns a state with energy and gradient evaluated again."""
    energy, grad = evaluate(state.position)
    return state._replace(energy=energy, grad=grad)


def _inside(config: SamplerConfig, start: np.ndarray) -> np.ndarray:
    """Returns the start inside the bounds: outside them there is no energy to accept by."""
    return start if config.bounds is None else np.clip(start, *config.bounds)


def _temperatures_above_zero(config: SamplerConfig) -> np.ndarray:
    temperatures = temperature_schedule(config)
    lowest = distinct(temperatures).min()
    if lowest <= 0:
        raise UsageError(
            f"a sampler that accepts and rejects needs a temperature above 0 at every step, got {lowest:g}"
            + (
                ": set noise=None and a temperature (--noise none --temperature T)"
                if config.noise is not None
                else ": give another temperature (--temperature T)"
            )
        )
    return temperatures
