"""Compares several steps in one call with the same steps one by one, chain by chain."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from .chain import chain_steps
from .config import SamplerConfig, Schedule
from .engine import Engine
from .fused_steps import EachStep, Fused, FusedInfo
from .progress import Progress
from .schedule import spread

__all__ = ["first_steps", "gap_between", "largest_gap", "steps_to_compare", "why_steps_differ"]

_LIMITS = {"fp32": 1e-4, "bf16": 1e-4, "fp16": 1e-2}
"""How far K steps in one call may end from K single ones, in units of how far the chain went. Both compute with the same graph, in
FP32 and BF16 from the same numbers. Elsewhere the gradient scale is summed up in another order, and what it multiplies is
rounded to another neighbour now and then."""
_COARSE = 0.1

_ENERGY_LIMIT = 1e-2
"""How far an energy may be from that of the single step, in units of the largest: for FP32 and BF16, ten times `_LIMITS` elsewhere. It
finds energies of other states; those of large terms that cancel differ by a thousandth of what is left."""
_STAGES = 3

_DISTURBANCE = 1e-6
"""What states and gradient scales are disturbed by in each call, in units of their size: some roundings of float32, so that what
rounds in the graph falls to its other side more often than in another file of the same graph."""
_TRIALS = 16
"""Runs that are disturbed so, each up to where the one before was off. In INT8 and FP16 hardly anything happens until a number falls to
its other side, and then the chain leaps: of a right INT8 graph one had gone 0.11 of its way elsewhere after 32 steps, as half of the
disturbed runs did, and none of the first four."""
_SHARE = 0.1
"""Share of the limit that the two may be apart."""
_GROWN = 10.0
"""Times the disturbance that they may be apart in any case: where a chain hardly moves, the disturbance is more than that share."""


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
        None where they end in the same places, or, where rounding grows too much to say so, where their first steps do (see
        `steps_to_compare`); else what is off, in words that follow the name of the fused one.
    """
    stages = np.unique(np.linspace(0, len(golden["step"]) - 1, _STAGES).round().astype(int))
    settings = config.replace(steps=fused.count, warmup=0)
    still = settings.replace(noise=None, temperature=0.0)
    chains = slice(engine.largest_batch)
    for stage in stages:
        x = golden["x"][stage][chains]
        own = np.arange(len(x)) if stage else np.zeros(len(x), int)  # where chains start they share a condition
        cond = {
            name.removeprefix("cond."): np.ascontiguousarray(rows[stage][chains][own])
            for name, rows in golden.items()
            if name.startswith("cond.")
        }
        place = f"from step {int(golden['step'][stage])}"
        for each in dict.fromkeys((settings, still)):
            wrong = _why_paths_differ(engine, fused, each, x, cond, precision, place, fused.count)
            if wrong is None:
                continue
            known = steps_to_compare(engine, each, x, cond, precision, fused.count)
            if known < fused.count and config.sampler != "optimize":  # which goes on by its momentum whatever its steps
                wrong = _why_paths_differ(engine, fused, _resting(each, known), x, cond, precision, place, known)
            if wrong is not None:
                return wrong
    return None


def steps_to_compare(
    engine: Engine, config: SamplerConfig, x: np.ndarray, cond: Mapping[str, np.ndarray], precision: str, steps: int
) -> int:
    """How many steps two right graphs end in the same place after.

    A chain may multiply rounding by 1e5 within 32 steps, and where it does its end says nothing. So the steps are taken twice one by
    one, as they are and with each call of the engine disturbed by some roundings, until a chain is a tenth of the limit off, and by more
    than what a disturbance makes of one that hardly moves. Worth its time only where ends are not the same.

    Args:
        engine: takes single steps; open.
        config: the sampler's settings, of `steps` or more.
        x: [B, *S] float32, where chains start.
        cond: conditioning arrays by graph name, each [B, ...].
        precision: of the engine.
        steps: the most that are of interest.

    Returns:
        From 1 to `steps`.
    """
    own = [now.state.position.copy() for now in first_steps(engine, config, x, cond, steps)]
    size = _DISTURBANCE * (np.sqrt(np.mean(np.square(x, dtype=np.float64))) or 1.0)
    begin = size * np.sqrt(x[0].size)
    disturbed = _Disturbed(engine, size, config.bounds)
    known = steps
    for _ in range(_TRIALS):
        for now, place in zip(first_steps(disturbed, config, x, cond, known), own, strict=False):
            gaps, apart = _gaps(place, now.state.position, x)
            if ((gaps > _SHARE * largest_gap(precision)) & (apart > _GROWN * begin)).any():
                known = max(now.done - 1, 1)
                break
    return known


class _Disturbed(Engine):
    """An open engine that is asked beside where it should be, and inside the bounds: there may be no energy outside of them."""

    def __init__(self, engine: Engine, size: float, bounds: tuple[float, float] | None) -> None:
        self.backend, self.needs_scale, self.known_scales = engine.backend, engine.needs_scale, engine.known_scales
        self._engine, self._size, self._bounds = engine, size, bounds
        self._random = np.random.default_rng(0)

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._engine.prepare(cond)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x, scale = inputs["x"], inputs["grad_scale"]
        moved = x + (self._size * self._random.standard_normal(x.shape)).astype(np.float32)
        if self._bounds is not None:
            moved = np.clip(moved, *self._bounds)
        factor = (1 + _DISTURBANCE * self._random.standard_normal(scale.shape)).astype(np.float32)
        return self._engine.run({**inputs, "x": moved, "grad_scale": scale * factor})

    def open(self) -> None:
        """It is open."""

    def close(self) -> None:
        """Whoever opened it closes it."""


def gap_between(one: np.ndarray, other: np.ndarray, start: np.ndarray) -> float:
    """How far ends [B, *S] of chains from `start` [B, *S] are apart, in units of how far `one` went: the largest.

    Returns:
        At least 0, and best there; infinite where a chain is finite in one of them alone, 0 where none is in either.
    """
    return float(_gaps(one, other, start)[0].max(initial=0.0))


def _gaps(one: np.ndarray, other: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each chain [B] how far its ends are apart, in units of how far `one` went, and as it is; see `gap_between`."""
    one, other, start = (rows.astype(np.float64) for rows in (one, other, start))
    well, alike = _are_finite(one), _are_finite(one) == _are_finite(other)
    with np.errstate(invalid="ignore"):
        apart = np.where(well, _norms(other - one), 0.0)
        way = np.maximum(_norms(one - start), 1e-3 * _norms(start) + 1e-12)
        gaps = np.where(well, apart / way, 0.0)
    return np.where(alike, gaps, np.inf), np.where(alike, apart, np.inf)


def _why_paths_differ(
    engine: Engine,
    fused: Fused,
    config: SamplerConfig,
    x: np.ndarray,
    cond: dict[str, np.ndarray],
    precision: str,
    place: str,
    known: int,
) -> str | None:
    limit = largest_gap(precision)
    allowed = max(_ENERGY_LIMIT, 10 * limit)
    single, several = (_path(engine, config, x, cond, steps) for steps in (None, fused))
    for back in range(len(several.position), 0, -1):  # of the end alone, or of each step
        step, (before, after) = min(fused.count - back + 1, known), (path.position[-back] for path in (single, several))
        gap, well = gap_between(before, after, x), _are_finite(before)
        if gap == np.inf:
            return "diverges where the step-by-step chain does not, or the other way round"
        if not well.any():
            continue
        if not gap <= limit:
            return (
                f"leaves the step-by-step chain: after {step} steps {place} by {gap:.2g} of the way, allowed {limit:g}"
            )
        energy, told = (path.energy[-back][well] for path in (single, several))
        worst = float(np.abs(energy - told).max() / (np.abs(energy).max() + 1e-12))
        if not worst <= allowed:
            return (
                f"tells another energy than the step-by-step chain: after {step} steps {place} off by {worst:.2g} "
                f"of its size, allowed {allowed:g}"
            )
    return None


def _resting(config: SamplerConfig, steps: int) -> SamplerConfig:
    """The same first steps, and none worth the name after them: a graph of K takes all K."""
    rest = np.arange(config.steps) >= steps

    def until(setting: Schedule, rests_at: float) -> Schedule:
        return tuple(np.where(rest, rests_at, spread(setting, config.steps)).tolist())

    # Not 0, at which a noise that is set leaves the temperature open.
    changed = config.replace(step_size=until(config.step_size, 1e-30))
    return changed if config.noise is None else changed.replace(noise=until(config.noise, 0.0))


def first_steps(
    engine: Engine, config: SamplerConfig, x: np.ndarray, cond: Mapping[str, np.ndarray], steps: int
) -> Iterator[Progress]:
    """Tells of the start and of the first steps, taken one by one; arguments as in `steps_to_compare`."""
    run = chain_steps(engine, config, x, range(len(x)), len(x), cond=cond, stop_when_diverged=False, draw_ahead=False)
    with contextlib.closing(run):
        yield from itertools.islice(run, steps + 1)


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


def _are_finite(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.isfinite(rows).reshape(len(rows), -1).all(axis=1))


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(rows.reshape(len(rows), -1), axis=1))
