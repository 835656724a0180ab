"""The loop: an engine, a kernel, gradient scaling and noise make chains."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from .chain_random import ChainRandom
from .checkpoint import Checkpoint, Saved
from .config import SamplerConfig
from .device_loop import DeviceLoop, Handover
from .engine import Engine
from .errors import DivergenceError, UsageError
from .fused_steps import Fused, fuse
from .gradient_scale import ScaledScore
from .method import build_method, replicas
from .noise import NoiseSource
from .sample_file import SampleFile
from .samplers.langevin import are_finite
from .samplers.surrogate import Energy
from .schedule import spread
from .snapshot import Snapshot
from .warm_up import WarmUp

__all__ = [
    "Callback",
    "Divergence",
    "Progress",
    "ProgressOnly",
    "chain_steps",
    "hand_over",
    "hindrance",
    "largest_batch",
    "run_chains",
]

_LOG = logging.getLogger("ebm_export")

RESTARTS = 3
"""How often a chain that diverges is started anew before that is an error."""

Divergence = Literal["stop", "restart", "drop"]
"""What happens when a chain's numbers are no longer finite, see `run_chains`."""


class Progress(NamedTuple):
    """What a callback is told, once at the start of each batch of chains and once after every step.

    The arrays are overwritten by the steps that follow; copy what is to be kept.

    Attributes:
        done: steps taken, 0 at the start. Exact sampling tells of whole blocks after its warm-up, and fused steps are told of together.
        steps: steps in all.
        chains: numbers of the chains in this batch.
        n: number of chains in all batches together.
        state: positions, energies and gradients of these chains, as the sampler's `State` names them.
        info: what the step reports, the sampler's `Info`; None at the start.
        grad_scale: [B] float32, the scale that energy and gradient were computed with; None where nothing has been.
        warming_up: whether the step was one of the warm-up.
        diverged: [B] bool, chains whose numbers are no longer finite; None where there are none.
        calls: how often the engine was asked for these chains, the start included.
        snapshot: makes a `Snapshot` of what the chains go on from.
    """

    done: int
    steps: int
    chains: range
    n: int
    state: Any
    info: Any
    grad_scale: np.ndarray | None
    warming_up: bool = False
    diverged: np.ndarray | None = None
    calls: int = 0
    snapshot: Callable[[], Snapshot] | None = None

    @property
    def part(self) -> tuple[int, int]:
        """(steps of all chains taken, in all), for a progress bar; batches run one after another."""
        return self.chains.start * self.steps + self.done * len(self.chains), self.n * self.steps


Callback = Callable[[Progress], None]


class ProgressOnly:
    """A callback that asks how far the chains are and looks at no state, so that they may stay on the engine's device.

    There it is told now and then, not of every step.

    Args:
        tell: called with `Progress.part`.
    """

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def __call__(self, progress: Progress) -> None:
        self._tell(*progress.part)


def run_chains(
    engine: Engine,
    config: SamplerConfig,
    start: Callable[[range], np.ndarray],
    n: int,
    *,
    seed: int = 0,
    cond: Mapping[str, np.ndarray] | None = None,
    max_batch: int | None = None,
    callback: Callback | None = None,
    switches: Mapping[int, Engine] | None = None,
    exact: Engine | None = None,
    free: np.ndarray | None = None,
    diverged: Divergence = "stop",
    restart: Callable[[range, int], np.ndarray] | None = None,
    fused: Fused | None = None,
    energy_range: tuple[float, float] | None = None,
    checkpoint: Checkpoint | None = None,
    samples: SampleFile | None = None,
) -> np.ndarray:
    """Runs n chains from start to end, in batches where they are many.

    Neither the batches nor n change what a chain's noise and start are.

    Args:
        engine: an open engine.
        config: the sampler's settings.
        start: gives the start states [len(chains), *S] float32 of the chain numbers it is asked for.
        n: number of chains, at least 1.
        seed: as in `NoiseSource`.
        cond: conditioning arrays by graph name, each [n, ...], or [1, ...] where all chains share it.
        max_batch: most samples in one engine call; None means all.
        callback: told about every step, see `Progress`.
        switches: open engines of the same energy that take over at a step, by its number. Where the step uses an energy
            or gradient of its starting point, the new engine evaluates that point again; the gradient scale goes on.
        exact: an open engine of the energy to be sampled; `engine` is then its surrogate, see `samplers/surrogate.py`.
        free: [n, *S] or [1, *S] float32, 1 where a number of x may move and 0 where it stays at its start; None lets all
            move. What moves is sampled given what stays.
        diverged: "stop" raises as soon as a chain has numbers that are not finite. "drop" runs the others to the end and
            leaves it out of the result. "restart" then runs it again with other noise, up to `RESTARTS` times.
        restart: gives the start states of chain numbers at an attempt from 1 on; None takes those of `start` again.
        fused: takes several steps in one call, open and with the settings of `config`. It is left alone where engines switch,
            where there is an exact one, and where numbers stay.
        energy_range: (lowest, highest) energy of a chain that is well; one outside has diverged. Looked at after each step.
        checkpoint: where the run's state is saved now and then, and once at the end; one that is there already is gone on from.
        samples: takes the states after every so many steps, or at the end of the block of steps that these fall into. Those of
            chains that are dropped become NaN.

    Returns:
        [n, *S] float32, the final positions; fewer where chains were dropped.

    Raises:
        DivergenceError: a final position is not finite, or an energy or gradient, at the start or where the sampler
            cannot reject; with "restart", after the last attempt; with "drop", of all chains.
        UsageError: the settings leave the sampler nothing that it can sample.
    """
    saved = None if checkpoint is None else checkpoint.load()
    batch = largest_batch(config, n, max_batch)
    on_device = False
    if isinstance(callback, ProgressOnly | None):  # another one is promised every state
        why = hindrance(config, exact=exact, switches=switches, checkpoint=checkpoint, samples=samples)
        on_device = why is None
        if why is not None:
            engine.stays_on_host(why)

    def run(chains: range, attempt: int, where: Callable[[Snapshot], Saved]) -> tuple[np.ndarray, np.ndarray]:
        nonlocal saved
        resume, saved = (None if saved is None else saved.snapshot), None
        position = start(chains) if attempt == 0 or restart is None else restart(chains, attempt)
        stop = diverged == "stop" or (diverged == "restart" and attempt == RESTARTS)
        loop = engine.device_loop() if on_device else None
        steps = chain_steps(
            engine,
            config,
            position,
            chains,
            n,
            seed=seed,
            cond=cond,
            switches=switches,
            exact=exact,
            free=free,
            attempt=attempt,
            stop_if_diverged=stop,
            fused=None if loop is not None else fused,  # the loop goes on from what `engine` itself has in its memory
            energy_range=energy_range,
            resume=resume,
        )
        if loop is not None:
            told = None if attempt else callback
            key = NoiseSource(seed, attempt=attempt).key
            with contextlib.closing(steps):
                return _finish_on_device(
                    loop, steps, config, chains, key, free, engine.needs_scale, stop, energy_range, told
                )
        before = 0 if resume is None else resume.done
        with contextlib.closing(steps):  # at once, where the callback raises
            for now in steps:
                if callback is not None and attempt == 0:
                    callback(now)
                if samples is not None and now.done // samples.every > before // samples.every:
                    samples.write(now.done // samples.every - 1, chains.start, now.state.position)
                before = now.done
                if checkpoint is not None and checkpoint.due and now.done < config.steps and now.snapshot is not None:
                    checkpoint.save(where(now.snapshot()))
        return now.state.position, np.zeros(len(chains), dtype=bool) if now.diverged is None else now.diverged

    result: np.ndarray | None = None if saved is None else saved.result
    dropped: list[int] = [] if saved is None else saved.dropped.tolist()
    lost: np.ndarray

    def at(first: int, place: int = -1, attempt: int = 0) -> Callable[[Snapshot | None], Saved]:
        """What a checkpoint says of this place."""

        def where(snapshot: Snapshot | None) -> Saved:
            so_far = result
            if so_far is None:
                assert snapshot is not None, "the first batch is not done"
                so_far = np.zeros((n, *snapshot.state.position.shape[1:]), dtype=np.float32)
            waiting = np.zeros(0, dtype=bool) if place < 0 else lost
            return Saved(first, place, attempt, so_far, waiting, np.array(dropped, np.int64), snapshot)

        return where

    for first in range(0 if saved is None else saved.first, n, batch):
        chains = range(first, min(first + batch, n))
        begun = saved if saved is not None and saved.place >= 0 else None
        if begun is None:
            positions, lost = run(chains, 0, at(first))
            if result is None:
                result = np.empty((n, *positions.shape[1:]), dtype=np.float32)
            result[first : chains.stop] = positions
            lost = lost.copy()
        else:  # a checkpoint of one of its chains that was started anew
            lost = begun.lost
        if diverged == "drop":
            dropped += [chains[index] for index in np.flatnonzero(lost)]
        else:
            for index in np.flatnonzero(lost).tolist():
                again = range(chains[index], chains[index] + 1)
                attempt = begun.attempt - 1 if begun is not None else 0
                begun = None
                while lost[index]:
                    attempt += 1
                    positions, still = run(again, attempt, at(first, index, attempt))
                    lost[index] = still[0]
                assert result is not None
                result[again.start] = positions[0]
                _LOG.warning("chain %d diverged and was started anew (%d of %d)", again.start, attempt, RESTARTS)
        if checkpoint is not None:
            checkpoint.save(at(chains.stop)(None))
    assert result is not None, "run_chains needs at least one chain"
    if dropped:
        _stop_if_diverged(n if len(dropped) == n else 0, config.steps, range(n), energy_range)
        _LOG.warning("%d of %d chains diverged and were dropped: %s", len(dropped), n, ", ".join(map(str, dropped)))
        result = np.delete(result, dropped, axis=0)
        if samples is not None:
            samples.blank(dropped)
    return result


def hindrance(config: SamplerConfig, **asked: Any) -> str | None:
    """Returns what keeps chains from staying on the engine's device, in words; None where nothing does.

    Args:
        config: the sampler's settings.
        **asked: arguments of `run_chains`.
    """
    if config.sampler != "langevin":
        return f'the sampler "{config.sampler}" has no loop there, "langevin" does'
    words = {
        "exact": "exact sampling asks two engines",
        "switches": "precisions change over the steps",
        "checkpoint": "a checkpoint takes states on the way",
        "samples": "states are written on the way",
    }
    return next((words[name] for name, value in asked.items() if value), None)


def hand_over(
    now: Progress,
    config: SamplerConfig,
    key: tuple[int, int],
    free: np.ndarray | None,
    adapt: bool,
    *,
    stop: bool = False,
    energy_range: tuple[float, float] | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Handover:
    """Returns what a device loop goes on from; `now` is of the engine's last call, and `free` as in `run_chains`."""
    position = np.ascontiguousarray(now.state.position, dtype=np.float32)
    mask = None if free is None else np.ascontiguousarray(_rows(free, now.chains, 1), dtype=np.float32)
    return Handover(config, position, now.done, key, now.chains, mask, adapt, stop, energy_range, tell)


def _finish_on_device(
    loop: DeviceLoop,
    steps: Iterator[Progress],
    config: SamplerConfig,
    chains: range,
    key: tuple[int, int],
    free: np.ndarray | None,
    adapt: bool,
    stop: bool,
    energy_range: tuple[float, float] | None,
    callback: Callback | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes the first evaluation from `chain_steps`, since it looks for the gradient's scale, and all else from the device.

    Returns:
        Final positions [B, *S] float32, and [B] bool, chains whose numbers are no longer finite.
    """
    now = next(steps)
    if config.order == "noise-drift":  # which evaluates nothing before its first step
        now = next(steps)
    position: np.ndarray = now.state.position
    lost = np.zeros(len(chains), dtype=bool) if now.diverged is None else now.diverged
    if now.done < config.steps:

        def tell(done: int) -> None:
            if callback is not None:
                callback(now._replace(done=done))

        tell(now.done)
        position, hit = loop.run(
            hand_over(now, config, key, free, adapt, stop=stop, energy_range=energy_range, tell=tell)
        )
        if stop and (hit >= 0).any():
            step = int(hit[hit >= 0].min())
            _stop_if_diverged(int(np.count_nonzero(hit == step)), step, chains, energy_range)
        finite = np.isfinite(position).reshape(len(chains), -1).all(axis=1)
        if stop:
            _stop_if_diverged(int(np.count_nonzero(~finite)), config.steps, chains, energy_range)
        lost = lost | (hit >= 0) | ~finite
    return position, lost


def largest_batch(config: SamplerConfig, n: int, max_batch: int | None) -> int:
    """Returns how many of n chains run together where an engine call takes at most `max_batch` samples.

    Raises:
        UsageError: not even one does.
    """
    if max_batch is not None:
        count = replicas(config)  # each is a sample of the engine call
        if max_batch < count:
            raise UsageError(
                f"ladder: its {count} replicas go into one engine call, which takes {max_batch} samples: give a shorter "
                "ladder or a larger max_batch"
            )
        max_batch //= count
    return min(n, max_batch or n)


def chain_steps(
    engine: Engine,
    config: SamplerConfig,
    position: np.ndarray,
    chains: range,
    n: int,
    *,
    seed: int = 0,
    cond: Mapping[str, np.ndarray] | None = None,
    switches: Mapping[int, Engine] | None = None,
    exact: Engine | None = None,
    free: np.ndarray | None = None,
    attempt: int = 0,
    stop_if_diverged: bool = True,
    fused: Fused | None = None,
    energy_range: tuple[float, float] | None = None,
    resume: Snapshot | None = None,
) -> Generator[Progress, None, None]:
    """Runs one batch of chains and tells of the start and of every step; whoever listens may stop at any of them.

    Args:
        engine: an open engine.
        config: the sampler's settings.
        position: [B, *S], where these chains start; left as it is.
        chains: their numbers.
        n: number of chains in all batches together.
        seed: as in `NoiseSource`, like `attempt`.
        cond: conditioning arrays of all n chains, as in `run_chains`, like all that follow.
        switches: engines that take over at a step.
        exact: an engine of the energy to be sampled.
        free: 1 where a number of x may move.
        attempt: how often these chains were started anew.
        stop_if_diverged: whether a chain whose numbers are not finite is an error; else `Progress.diverged` tells.
        fused: takes several steps in one call, which are then told of together.
        energy_range: energies of a chain that is well.
        resume: what the chains go on from, in place of their start.

    Raises:
        DivergenceError: as in `run_chains`.
        UsageError: the settings leave the sampler nothing that it can sample.
    """
    count = replicas(config)
    rows = {name: _rows(array, chains, count) for name, array in (cond or {}).items()}
    free = None if free is None else _rows(free, chains, count)
    start = np.ascontiguousarray(position, dtype=np.float32)
    random = ChainRandom(seed, chains, position.shape[1:], free, count, attempt)
    if switches or exact is not None or free is not None:
        fused = None
    random.draw_ahead(config.steps, 1 if fused is None else fused.count)
    steps = _steps(
        engine,
        config,
        start,
        rows,
        free,
        random,
        switches or {},
        exact,
        chains,
        n,
        stop_if_diverged,
        fused,
        energy_range,
        resume,
    )
    with contextlib.closing(random):
        while True:
            # Numbers that leave float32's range are looked for; numpy need not warn of them as well.
            with np.errstate(over="ignore", invalid="ignore"):
                now = next(steps, None)
            if now is None:
                return
            yield now


def _steps(
    engine: Engine,
    config: SamplerConfig,
    position: np.ndarray,
    cond: Mapping[str, np.ndarray],
    free: np.ndarray | None,
    random: ChainRandom,
    switches: Mapping[int, Engine],
    exact: Engine | None,
    chains: range,
    n: int,
    stop_if_diverged: bool,
    fused: Fused | None,
    energy_range: tuple[float, float] | None,
    resume: Snapshot | None,
) -> Iterator[Progress]:
    """`chain_steps` with the arrays of this batch alone."""
    energy = None if exact is None else _energy_of(exact, cond, len(chains))
    method = build_method(config, position, energy, free)
    if fused is not None:
        method = fuse(method, fused, config, position)
    count = replicas(config)
    score = ScaledScore(engine, cond, free)
    step_sizes = spread(config.step_size, config.steps)
    warm_up = WarmUp(method.warm_up, len(chains) * count, method.target)
    lost: np.ndarray | None = None
    state: Any = None

    def check(well: np.ndarray, step: int) -> None:
        nonlocal lost
        if well.all():
            return
        if stop_if_diverged:
            _stop_if_diverged(int(np.count_nonzero(~well)), step, chains, energy_range)
        lost = ~well if lost is None else lost | ~well

    def in_range(energy: np.ndarray) -> np.ndarray:
        low, high = energy_range or (-np.inf, np.inf)
        # An energy that nobody asked for (in the warm-up of exact sampling) is NaN, which is looked for elsewhere.
        return ~((energy < low) | (energy > high))

    def refresh(step: int) -> None:
        nonlocal state
        state = method.refresh(state, score)
        check(are_finite(state.energy, state.grad), step)

    def snapshot() -> Snapshot:
        return Snapshot(done, state, score.state, warm_up.state, lost, score.calls)

    def tell(info: Any) -> Progress:
        scale = None if score.scale is None else score.scale[::count]
        warming_up = max(done - 1, 0) < warm_up.steps
        return Progress(done, config.steps, chains, n, state, info, scale, warming_up, lost, score.calls, snapshot)

    if resume is None:
        done = 0
        state = method.init(random, position, score)
        if score.scale is not None:  # something was evaluated
            check(are_finite(state.energy, state.grad) & in_range(state.energy), 0)
    else:
        for turn in sorted(switches):
            if turn < resume.done:
                score.switch(switches[turn])
        done, state, lost = resume.done, resume.state, resume.lost
        score.state, warm_up.state, score.calls = resume.scale, resume.warm_up, resume.calls
    yield tell(None)
    while done < config.steps:
        step = done
        done = min(step + (1 if step < warm_up.steps else method.stride), config.steps)
        if step in switches:
            score.switch(switches[step])
            refresh(step)
        if method.rejects and step == warm_up.steps:
            score.freeze(warm_up.settle(score.scale))
            refresh(step)
        step_size = step_sizes.item(step)
        if method.rejects and warm_up.steps:
            step_size = step_size * warm_up.factor
        state, info = method.step(random.at(step), state, score, step_size, step)
        if method.rejects:
            if step < warm_up.steps:
                warm_up.update(step, info.acceptance, score.scale)
        elif info.not_finite:
            check(are_finite(state.energy, state.grad), done)
        if energy_range is not None:
            check(in_range(state.energy), done)
        if done == config.steps:
            # The last drift of the order "noise-drift" is followed by no evaluation that would notice an overflow.
            check(np.isfinite(state.position).reshape(len(chains), -1).all(axis=1), done)
        yield tell(info)


def _energy_of(engine: Engine, rows: Mapping[str, np.ndarray], chains: int) -> Energy:
    """Returns x -> energy through an engine whose gradients are not used, so that their scale does not matter."""
    score = ScaledScore(engine, rows)
    score.freeze(np.ones(chains, dtype=np.float32))
    return lambda x: score(x)[0]


def _rows(array: np.ndarray, chains: range, count: int) -> np.ndarray:
    """Returns the rows of these chains, each `count` times; a single row is repeated for all without a copy."""
    if len(array) == 1:
        return np.broadcast_to(array, (len(chains) * count, *array.shape[1:]))
    rows = array[chains.start : chains.stop]
    return rows if count == 1 else np.repeat(rows, count, axis=0)


def _stop_if_diverged(hit: int, step: int, chains: range, energy_range: tuple[float, float] | None = None) -> None:
    if hit:
        where = f"after step {step}" if step else "at the start"
        outside = "" if energy_range is None else f", or an energy outside {energy_range[0]:g} to {energy_range[1]:g},"
        raise DivergenceError(
            f"{hit} of {len(chains)} chains have an energy, gradient or position that is not finite{outside} {where}; "
            'try a smaller step_size, grad_clip, or bounds; or pass diverged="restart" or "drop"'
        )
