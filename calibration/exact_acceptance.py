"""How often exact sampling accepts what an engine's chains propose, which says how near its energy is to FP32's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.ebm import Ebm
from ..runtime.errors import UsageError
from ..runtime.progress import Progress
from ..runtime.schedule import noise_schedule, spread, temperature_schedule
from ..runtime.usable_settings import check_settings
from .temperature import NO_DENSITY

__all__ = ["ExactAcceptance", "exact_acceptance", "exact_settings"]

_CHAINS = 64
"""With twenty blocks each, a standard error below 0.01 of whatever acceptance there is."""
_FEWEST_STEPS = 0.1
"""Acceptance of steps below which more than half of the blocks of five go nowhere, and a block that goes nowhere is accepted."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class ExactAcceptance:
    """Acceptance of exact sampling (`runtime/samplers/surrogate.py`) from FP32's samples; nothing passes or fails by it.

    Attributes:
        block_acceptance: mean probability with which a block is accepted, from 0 to 1; 1 where the two energies differ by a constant.
        low: lower end of its 95 % interval, by a bootstrap over the chains.
        high: upper end.
        acceptance: mean probability with which the engine's own steps within the blocks were accepted.
        temperature: T of exp(-E / T), that of the sampler's last step, in units of energy.
        chains: number of chains.
        blocks: blocks of each.
        block: steps of a block; the last one may have fewer.
    """

    block_acceptance: float
    low: float
    high: float
    acceptance: float
    temperature: float
    chains: int
    blocks: int
    block: int


def exact_settings(config: SamplerConfig) -> SamplerConfig:
    """Returns the settings that hold the last step's size and temperature all along, which exact sampling needs.

    Raises:
        UsageError: there is no exact sampling at the last step's settings; the message says why.
    """
    check_settings(config, {}, (), exact=True)
    if noise_schedule(config)[-1] == 0:
        raise UsageError(NO_DENSITY)
    temperature = float(temperature_schedule(config)[-1])
    step_size = float(spread(config.step_size, config.steps)[-1])
    return config.replace(step_size=step_size, noise=None, temperature=temperature, anneal=1.0)


def exact_acceptance(
    ebm: Ebm,
    fp32: Ebm,
    samples: np.ndarray,
    cond: Mapping[str, np.ndarray],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> ExactAcceptance:
    """Runs a few chains of an engine, corrected by FP32, with FP32's sampler settings but for what `exact_settings` holds.

    They begin at FP32's samples, so that the acceptance is that at equilibrium, as far as these follow exp(-E / T).

    Args:
        ebm: of the engine; its engine stays open.
        fp32: the model that samples are to follow; its engine stays open.
        samples: [N, *S] float32, drawn from FP32; the first 64 are used.
        cond: a row of every conditioning input for each sample, [N, ...] by name.
        seed: of the noise; another one than the samples'.
        progress: called with (chain steps done, in all).

    Raises:
        UsageError: there is no exact sampling with these settings, or its blocks go nowhere; the message says why.
        DivergenceError: a chain leaves the numbers that a float can hold.
    """
    config = exact_settings(fp32.sampler)
    starts = samples[:_CHAINS]
    n = len(starts)
    rows = {name: array[:n] for name, array in cond.items()}
    accepted, moved, blocks = np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64)

    def watch(now: Progress) -> None:
        if progress is not None:
            progress(*now.part)
        if now.info is not None and not now.warming_up:
            chains = np.asarray(now.chains)
            accepted[chains] += now.info.block_acceptance
            moved[chains] += now.info.acceptance
            blocks[chains] += 1

    # Not closed: it has no engine of its own.
    corrected = Ebm(
        ebm.engine, fp32.model, config, max_batch=min(ebm.fitting, fp32.fitting), exact=fp32.engine
    )  # fmt: skip
    corrected.refine(starts, seed, cond=rows, callback=watch)
    acceptance = float((moved / blocks).mean())
    if acceptance < _FEWEST_STEPS:
        raise UsageError(
            f"only {100 * acceptance:.2g} % of its steps are accepted at T = {config.temperature:.3g} after the warm-up, so that most "
            "blocks go nowhere and their acceptance says nothing"
        )
    means = accepted / blocks
    drawn = np.random.default_rng(seed).integers(n, size=(_RESAMPLES, n))
    low, high = np.quantile(means[drawn].mean(axis=1), (0.025, 0.975))
    return ExactAcceptance(
        block_acceptance=float(means.mean()),
        low=float(low),
        high=float(high),
        acceptance=acceptance,
        temperature=float(temperature_schedule(config)[-1]),
        chains=n,
        blocks=int(blocks[0]),
        block=config.block,
    )
