"""Compares several steps in one call with the same steps one by one, chain by chain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .chain import chain_steps
from .config import SamplerConfig
from .engine import Engine
from .fused_steps import EachStep, Fused, FusedInfo

__all__ = ["largest_gap", "why_steps_differ"]

_LIMITS = {"fp32": 1e-4, "bf16": 1e-4, "fp16": 1e-2}
"""How far K steps in one call may end from K single ones, in units of how far the chain went. Both compute with the same graph, in
FP32 and BF16 from the same numbers. Elsewhere the gradient scale is summed up in another order, and what it multiplies is
rounded to another neighbour now and then."""
_COARSE = 0.1

_ENERGY_LIMIT = 1e-2
"""How far an energy may be from that of the single step, in units of the largest: for FP32 and BF16, ten times `_LIMITS` elsewhere. It
finds energies of other states; those of large terms that cancel differ by a thousandth of what is left."""
_STAGES = 3


def largest_gap(precision: str) -> float:
    """How far chains in this precision may end from those of single steps, in units of their way."""
    return _LIMITS.get(precision, _COARSE)


def why_steps_differ(
    engine: Engine, fused: Fused, config: SamplerConfig, golden: Mapping[str, np.ndarray], precision: str
) -> str | None:
    """Takes K steps both ways from states along the golden chains, with noise and without.

    Args:
        engine: takes single steps; open.
        fused: takes K; open, and with the settings of `config`.
        config: the sampler's settings.
        golden: as in `verify.check_engine`.
        precision: of both.

    Returns:
        None where they end in the same places, else what is off, in words that follow the name of the fused one.
    """
    stages = np.unique(np.linspace(0, len(golden["step"]) - 1, _STAGES).round().astype(int))
    settings = config.replace(steps=fused.count, warmup=0)
    still = settings.replace(noise=None, temperature=0.0)
    limit = largest_gap(precision)
    allowed = max(_ENERGY_LIMIT, 10 * limit)
    for stage in stages:
        x = golden["x"][stage]
        cond = {
            name.removeprefix("cond."): np.ascontiguousarray(rows[stage])
            for name, rows in golden.items()
            if name.startswith("cond.")
        }
        for each in dict.fromkeys((settings, still)):
            single, several = (_path(engine, each, x, cond, steps) for steps in (None, fused))
            place = f"from step {int(golden['step'][stage])}"
            for back in range(len(several.position), 0, -1):  # of the end alone, or of each step
                step, (before, after) = fused.count - back + 1, (path.position[-back] for path in (single, several))
                well, both = (np.isfinite(end).reshape(len(x), -1).all(axis=1) for end in (before, after))
                if not np.array_equal(well, both):
                    return "diverges where the step-by-step chain does not, or the other way round"
                if not well.any():
                    continue
                off, far = (_norms((before - other)[well]) for other in (after, x))
                worst = float((off / np.maximum(far, 1e-3 * _norms(x[well]) + 1e-12)).max())
                if not worst <= limit:
                    return (
                        f"leaves the step-by-step chain: after {step} steps {place} by {worst:.2g} of the way, "
                        f"allowed {limit:g}"
                    )
                energy, told = (path.energy[-back][well] for path in (single, several))
                worst = float(np.abs(energy - told).max() / (np.abs(energy).max() + 1e-12))
                if not worst <= allowed:
                    return (
                        f"tells another energy than the step-by-step chain: after {step} steps {place} off by {worst:.2g} "
                        f"of its size, allowed {allowed:g}"
                    )
    return None


def _path(
    engine: Engine, config: SamplerConfig, x: np.ndarray, cond: dict[str, np.ndarray], fused: Fused | None
) -> EachStep:
    """The states that are told of after the start, and their energies; NaN where a chain diverged."""
    # Not on the engine's own device, where fused steps have no part in it.
    run = chain_steps(engine, config, x, range(len(x)), len(x), cond=cond, stop_when_diverged=False, fused=fused)
    places, energies = [], []
    for now in run:
        if now.done == 0:
            continue
        each = now.info.each if isinstance(now.info, FusedInfo) else None
        if each is None:
            each = EachStep(now.state.position[None], now.state.energy[None])
        position, energy = each.position.copy(), each.energy.copy()
        if now.diverged is not None:
            energy[-1, now.diverged] = np.nan
        position[np.isnan(energy)] = np.nan
        places.append(position)
        energies.append(energy)
    return EachStep(np.concatenate(places), np.concatenate(energies))


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(rows.reshape(len(rows), -1), axis=1))
