"""The loop: an engine, a kernel, gradient scaling and noise take one batch of chains step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from .chain_numbers import Chains, rows_at, shifted
from .chain_random import ChainRandom
from .config import SamplerConfig
from .divergence import stop_if_diverged
from .energy_rounding import warn_of_rounding
from .engine import Engine
from .fused_steps import Fused, FusedInfo, fuse
from .gradient_scale import ScaledScore
from .method import build_method, knows_energies, replicas
from .pace import Pace, TimeIsOver
from .progress import Progress
from .row_norms import finite_rows
from .runaway import Runaways
from .samplers.langevin import Evaluate, are_finite
from .samplers.surrogate import Energy
from .schedule import distinct, spread, temperature_schedule
from .snapshot import Snapshot
from .standstill import Standstill
from .warm_up import WarmUp

__all__ = ["chain_steps", "rows_of"]


def chain_steps(
    engine: Engine,
    config: SamplerConfig,
    position: np.ndarray,
    chains: Chains,
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    cond: Mapping[str, np.ndarray] | None = None,
    switches: Mapping[int, Engine] | None = None,
    exact: Engine | None = None,
    free: np.ndarray | None = None,
    attempt: int = 0,
    stop_when_diverged: bool = True,
    fused: Fused | None = None,
    energy_range: tuple[float, float] | None = None,
    runaways: Runaways | None = None,
    resume: Snapshot | None = None,
    ask_again: bool = False,
    draw_ahead: bool = True,
    evenly: bool = False,
    shared: bool = False,
    every: int | None = None,
    pace: Pace | None = None,
    runs: tuple[int, int] | None = None,
    energies: bool = False,
    unwatched: bool = False,
) -> Generator[Progress, None, None]:
    """Runs one batch of chains and tells of the start and of every step; whoever listens may stop at any of them.

    Args:
        engine: an open engine.
        config: the sampler's settings.
        position: [B, *S], where these chains start; left as it is.
        chains: their numbers, from 0; rows of arrays that hold all n.
        n: number of chains in all batches together.
        seed: as in `NoiseSource`, like `attempt`.
        first: number of chain 0 in the noise.
        cond: conditioning arrays of all n chains, as in `run.run_chains`, like all that follow.
        switches: engines that take over at a step.
        exact: an engine of the energy to be sampled.
        free: 1 where a number of x may move.
        attempt: how often these chains were started anew.
        stop_when_diverged: whether a chain whose numbers are not finite is an error; else `Progress.diverged` tells.
        fused: takes several steps in one call, which are then told of together.
        energy_range: energies of a chain that is well.
        runaways: looks for chains that ran away, at the end and after every `every` steps; None where nobody does.
        resume: what the chains go on from, in place of their start.
        ask_again: whether the engine is asked where chains go on from a snapshot, which needs no answer, so that it holds their
            conditions and the scale of the next step.
        draw_ahead: whether noise may be drawn before it is asked for; not worth it for chains that go on elsewhere.
        evenly: whether the steps should take equally long, so that none does the work of a thousand others.
        shared: whether whoever listens may ask the engine too, which then overwrites what the next step would read.
        every: number of steps of which every multiple is told of, however many are taken in one call.
        pace: says whether there is time for several steps in one call; it is told when the start will be evaluated. Where time is over
            in the middle of a step that may be rejected, it is, for all chains, and nothing more is told.
        runs: as in `Progress`.
        energies: whether whoever listens wants to know those of states. Where the sampler does not, the start's is evaluated, and
            `Progress.energies` tells those of others.
        unwatched: whether nobody wants to hear of steps but at the end and at multiples of `every`.

    Raises:
        DivergenceError: as in `run.run_chains`.
        UsageError: the settings leave the sampler nothing that it can sample.
    """
    count = replicas(config)
    rows = {name: rows_of(array, chains, count) for name, array in (cond or {}).items()}
    free = None if free is None else rows_of(free, chains, count)
    start = np.ascontiguousarray(position, dtype=np.float32)
    switches = switches or {}
    random = ChainRandom(seed, shifted(chains, first), start.shape[1:], free, count, attempt)
    energy = None if exact is None else _energy_of(exact, rows, len(chains), pace)
    method = build_method(config, start, energy, free, every)
    if switches or exact is not None or free is not None:
        fused = None
    if fused is not None and energy_range is not None and not fused.each:
        fused = None  # which tells of the last energy of a block
    if fused is not None and pace is not None and not pace.has_time(fused.count):
        fused = None  # there will be no more time than there is now
    if fused is not None:
        method = fuse(
            method,
            fused,
            config,
            start,
            every,
            pace,
            unwatched=unwatched,
            stops=stop_when_diverged,
            energy_range=energy_range,
            lost=lambda: lost,
        )
    score: ScaledScore
    ask: Evaluate
    step_sizes = spread(config.step_size, config.steps)
    warm_up = WarmUp(method.warm_up, len(chains) * count, method.target)
    standstill = Standstill(len(chains))
    lost: np.ndarray | None = None
    energies = energies and not knows_energies(config, exact=exact is not None)
    kept: list[np.ndarray] = []  # where `own` keeps energy and gradient
    if shared and not method.rejects:  # those that do keep arrays of their own
        kept = [np.empty(len(start), np.float32), np.empty_like(start)]
    state: Any = None
    done = 0

    def check(well: np.ndarray, step: int, why: str = "") -> None:
        nonlocal lost
        if well.all():
            return
        if stop_when_diverged:
            anew = chains[int(np.argmin(well))] if attempt else None
            stop_if_diverged(int(np.count_nonzero(~well)), step, len(chains), energy_range, anew=anew, why=why)
        lost = ~well if lost is None else lost | ~well

    def in_range(energy: np.ndarray) -> np.ndarray:
        low, high = energy_range or (-np.inf, np.inf)
        # An energy that nobody asked for (in the warm-up of exact sampling) is NaN, which is looked for elsewhere.
        return ~((energy < low) | (energy > high))

    def own() -> None:
        """Takes what the next step reads out of the engine's memory."""
        nonlocal state
        if kept:
            for array, answer in zip(kept, (state.energy, state.grad), strict=True):
                np.copyto(array, answer)
            state = state._replace(energy=kept[0], grad=kept[1])

    def look() -> None:
        nonlocal state
        if runaways is None or runaways.near(state.position):
            return
        if not method.rejects:  # else they are not the engine's, which is asked now
            state = state._replace(energy=state.energy.copy(), grad=state.grad.copy())
        found = runaways.look(state.position, start, lambda x: score.energy(np.repeat(x, count, axis=0))[::count])
        if found is not None:
            check(~found[0], done, found[1])

    def refresh(step: int) -> None:
        nonlocal state
        state = method.refresh(state, ask)
        end_where_late()
        check(are_finite(state.energy, state.grad), step)

    def end_where_late() -> None:
        """Ends at a switch where there is no time to find a scale for the new engine: energies are still those of the old one."""
        if score.gave_up:
            score.switch_back()
            raise TimeIsOver

    def begin() -> None:
        nonlocal state, done, lost
        if resume is None:
            state = method.init(random, start, score)
            own()
            # A start that is not finite may be answered as if it were: ReLU gives 0 for NaN.
            well = finite_rows(start)
            if score.calls:
                check(well & are_finite(state.energy, state.grad) & in_range(state.energy), 0)
            else:  # so that a block of fused steps, which asks once at each place, can be the first
                check(well, 0)
                found = score.find(start)
                if energies:
                    state = state._replace(energy=score.energy(start) if found is None else found.copy())
            return
        for turn in sorted(switches):
            if turn < resume.done:
                score.switch(switches[turn], ready[turn])
        done, state, lost = resume.done, resume.state, resume.lost
        if ask_again:
            score.state = resume.scale
            score(np.ascontiguousarray(state.position, dtype=np.float32))
        score.state, warm_up.state, score.calls = resume.scale, resume.warm_up, resume.calls

    def advance() -> Any:
        nonlocal state, done
        step = done
        done = step + 1 if method.end is None else method.end(step)
        if step in switches:
            score.switch(switches[step], ready[step])
            refresh(step)
        if method.rejects and step == warm_up.steps:
            score.freeze(warm_up.settle(score.scale))
            refresh(step)
        step_size = step_sizes.item(step)
        if method.rejects and warm_up.steps:
            step_size = step_size * warm_up.factor
        taken, info = method.step(random.at(step), state, ask, step_size, step)
        end_where_late()
        state = taken
        own()
        if method.rejects:
            if step < warm_up.steps:
                warm_up.update(step, info.acceptance, score.scale)
            else:
                standstill.take(info, done - step)
        elif info.not_finite:
            seen = info.lost_after if isinstance(info, FusedInfo) else None
            check(are_finite(state.energy, state.grad), done if seen is None else int(seen[seen >= 0].min()))
        if energy_range is not None:
            check(in_range(state.energy), done)
        if done == config.steps:
            standstill.tell()
            # Said once. An annealed chain may end as cold as it likes.
            if method.rejects and chains[0] == 0 and not attempt:
                warn_of_rounding(state.energy, float(distinct(temperature_schedule(config)).max()))
            # The last drift of the order "noise-drift" is followed by no evaluation that would notice an overflow.
            check(np.isfinite(state.position).reshape(len(chains), -1).all(axis=1), done)
        if done == config.steps or (every is not None and done % every == 0):
            look()
        return info

    def energies_of(x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return score.energy(x)

    def snapshot() -> Snapshot:
        return Snapshot(done, state, score.state, warm_up.state, lost, score.calls)

    def tell(info: Any) -> Progress:
        scale = None if score.scale is None else score.scale[::count]
        warming_up = max(done - 1, 0) < warm_up.steps
        return Progress(
            done,
            config.steps,
            chains,
            n,
            state,
            info,
            scale,
            warming_up,
            lost,
            score.calls,
            snapshot,
            attempt,
            runs,
            energies_of if energies else None,
        )

    with contextlib.closing(random):
        if draw_ahead and config.sampler != "optimize":  # which has no noise
            begins = 0 if resume is None else resume.done
            random.draw_ahead(config.steps, 1 if fused is None else fused.count, begins, in_bulk=not evenly)
        # Runs the prologue, where there is one.
        score = ScaledScore(engine, rows, free, has_time=None if pace is None else pace.has_time_for_another)
        ask = score
        # Engines that take over run theirs now, too, and not within a step, of which a deadline might count the time.
        ready = {step: other.prepare(rows) for step, other in switches.items()}
        if pace is not None:
            pace.starts()
            if method.rejects:  # an engine call of the others is a whole step
                ask = pace.between_calls(score)
        # Numbers that leave float32's range are looked for; numpy need not warn of them as well.
        with np.errstate(over="ignore", invalid="ignore"):
            begin()
        yield tell(None)
        while done < config.steps and not score.gave_up:
            try:
                with np.errstate(over="ignore", invalid="ignore"):
                    info = advance()
            except TimeIsOver:  # the states are those that the step began with
                return
            yield tell(info)


def _energy_of(engine: Engine, rows: Mapping[str, np.ndarray], chains: int, pace: Pace | None) -> Energy:
    """Returns x -> energy through an engine whose gradients are not used, so that their scale does not matter."""
    score = ScaledScore(engine, rows)
    score.freeze(np.ones(chains, dtype=np.float32))

    def energy(x: np.ndarray) -> np.ndarray:
        with contextlib.nullcontext() if pace is None else pace.correcting():
            return score(x)[0]

    return energy


def rows_of(array: np.ndarray, chains: Chains, count: int) -> np.ndarray:
    """Returns the rows of these chains, each `count` times; a single row is repeated for all without a copy."""
    if len(array) == 1:
        return np.broadcast_to(array, (len(chains) * count, *array.shape[1:]))
    rows = rows_at(array, chains)
    return rows if count == 1 else np.repeat(rows, count, axis=0)
