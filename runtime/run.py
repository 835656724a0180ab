"""Chains from start to end: batch by batch, with those that diverge started anew, and gone on with after a kill."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping

import numpy as np

from .chain import chain_steps, rows_of
from .chain_numbers import Chains, chains_of, stretches
from .checkpoint import Checkpoint, Saved
from .config import SamplerConfig
from .divergence import EARLIER, RESTARTS, Divergence, stop_if_diverged, tell_of_restarts
from .engine import Engine
from .errors import UsageError
from .fused_steps import Fused, FusedInfo
from .gradient_scale import ScaledScore
from .method import replicas
from .noise import NoiseSource
from .on_device import finish_on_device, loop_for
from .progress import Callback
from .runaway import Runaways
from .sample_file import SampleFile

__all__ = ["largest_batch", "run_chains"]

_LOG = logging.getLogger("ebm_export")


def run_chains(
    engine: Engine,
    config: SamplerConfig,
    start: Callable[[range], np.ndarray],
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    cond: Mapping[str, np.ndarray] | None = None,
    max_batch: int | None = None,
    callback: Callback | None = None,
    switches: Mapping[int, Engine] | None = None,
    exact: Engine | None = None,
    free: np.ndarray | None = None,
    diverged: Divergence = "stop",
    restart: Callable[[Chains, int], np.ndarray] | None = None,
    fused: Fused | None = None,
    energy_range: tuple[float, float] | None = None,
    runaways: Runaways | None = None,
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
        first: number of chain 0 in the noise, for a part of a larger number of chains.
        cond: conditioning arrays by graph name, each [n, ...], or [1, ...] where all chains share it.
        max_batch: most samples in one engine call; None means all.
        callback: told about every step, see `progress.Progress`, those of chains that run again included.
        switches: open engines of the same energy that take over at a step, by its number. Where the step uses an energy
            or gradient of its starting point, the new engine evaluates that point again; the gradient scale goes on.
        exact: an open engine of the energy to be sampled; `engine` is then its surrogate, see `samplers/surrogate.py`.
        free: [n, *S] or [1, *S] float32, 1 where a number of x may move and 0 where it stays at its start; None lets all
            move. What moves is sampled given what stays.
        diverged: "stop" raises as soon as a chain has numbers that are not finite. "drop" runs the others to the end and
            leaves it out of the result. "restart" then runs it again with other noise, up to `RESTARTS` times;
            all that a batch has lost run together.
        restart: gives the start states of chain numbers at an attempt from 1 on; None takes those of `start` again.
        fused: takes several steps in one call, open and with the settings of `config`. It is left alone where engines switch,
            where there is an exact one, where numbers stay, and with an `energy_range` unless it tells of each step.
        energy_range: (lowest, highest) energy of a chain that is well; one outside has diverged. Looked at after each step.
        runaways: looks for chains that ran away, which have diverged too: at the end, and on the host where states are written; None where
            nobody does.
        checkpoint: where the run's state is saved now and then, and once at the end; one that is there already is gone on from.
        samples: takes the states after every so many steps. Those of chains that are dropped become NaN.

    Returns:
        [n, *S] float32, the final positions; fewer where chains were dropped.

    Raises:
        DivergenceError: a final position is not finite, or an energy or gradient, at the start or where the sampler
            cannot reject; with "restart", after the last attempt; with "drop", of all chains.
        UsageError: the settings leave the sampler nothing that it can sample.
    """
    batch = largest_batch(config, n, max_batch)
    saved = None if checkpoint is None else checkpoint.load()
    at = Saved.beginning(n, start(range(1)).shape[1:]) if saved is None else saved
    loop = loop_for(engine, config, callback, exact=exact, switches=switches)
    # After which step the last chain was seen to diverge; those that another process saw are not known.
    last_lost = 0 if saved is None else config.steps
    past, again = at.first, 0  # runs of chains that are done, and how many of all are done anew

    def run(chains: Chains, attempt: int, alone: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Runs these chains to their end; returns their positions, and after which step each was seen to diverge, -1 for none.

        `alone` says whether they are all that run at this attempt: a snapshot does not know of which part it is.
        """
        nonlocal at
        resume, at = at.snapshot, at._replace(snapshot=None)
        if attempt and restart is not None:
            position = restart(chains, attempt)
        else:
            parts = [start(part) for part in stretches(chains)]
            position = parts[0] if len(parts) == 1 else np.concatenate(parts)  # which copies a single one too
        stop = diverged == "stop" or (diverged == "restart" and attempt == RESTARTS)
        steps = chain_steps(
            engine,
            config,
            position,
            chains,
            n,
            seed=seed,
            first=first,
            cond=cond,
            switches=switches,
            exact=exact,
            free=free,
            attempt=attempt,
            stop_when_diverged=stop,
            fused=None if loop is not None else fused,  # the loop goes on from what `engine` itself has in its memory
            energy_range=energy_range,
            runaways=runaways,
            resume=resume,
            ask_again=loop is not None,
            draw_ahead=loop is None,
            shared=callback is not None,
            every=None if samples is None else samples.every,
            runs=(past, n + again) if again else None,
            unwatched=callback is None and checkpoint is None,
        )
        with contextlib.closing(steps):  # at once, where the callback raises
            if loop is not None:
                key = NoiseSource(seed, attempt=attempt).key
                ended, seen = finish_on_device(
                    loop,
                    steps,
                    config,
                    chains,
                    key,
                    free,
                    engine.highest_scale,
                    stop,
                    energy_range,
                    callback,
                    samples,
                    checkpoint if alone else None,
                    lambda snapshot: at._replace(snapshot=snapshot),
                    resume is not None,
                    first,
                )
                if runaways is not None and not runaways.near(ended):
                    rows = {name: rows_of(array, chains, 1) for name, array in (cond or {}).items()}
                    found = runaways.look(ended, position, lambda x: np.array(ScaledScore(engine, rows)(x)[0]))
                    if found is not None:
                        hit = int(np.count_nonzero(found[0])) if stop else 0
                        stop_if_diverged(hit, config.steps, len(chains), why=found[1])
                        seen[found[0] & (seen < 0)] = config.steps
                return ended, seen
            seen = np.full(len(chains), -1)
            if resume is not None and resume.lost is not None:
                seen[resume.lost] = EARLIER
            for now in steps:
                if now.diverged is not None:
                    new = now.diverged & (seen == -1)
                    seen[new] = now.done
                    if isinstance(now.info, FusedInfo) and now.info.lost_after is not None:
                        new &= now.info.lost_after >= 0
                        seen[new] = now.info.lost_after[new]
                if callback is not None:
                    callback(now)
                if samples is not None and now.done % samples.every == 0 < now.done:
                    samples.write(now.done // samples.every - 1, chains, now.state.position)
                if checkpoint is not None and checkpoint.due and now.done < config.steps and now.snapshot is not None:
                    checkpoint.save(at._replace(snapshot=now.snapshot()))
        return now.state.position, seen

    while at.first < n:
        chains = range(at.first, min(at.first + batch, n))
        seen = np.full(len(chains), EARLIER)
        if at.attempt == 0:  # else a checkpoint of those of its chains that were started anew
            at.result[chains.start : chains.stop], seen = run(chains, 0)
            at = at._replace(lost=seen != -1, attempt=1)
            last_lost = max(last_lost, int(seen.max()))
        past += len(chains)
        if diverged == "drop":
            at = at._replace(dropped=np.append(at.dropped, chains.start + np.flatnonzero(at.lost)))
        else:
            while at.lost.any():
                left = chains_of((chains.start + np.flatnonzero(at.lost)).tolist())
                tell_of_restarts(left, len(chains), at.attempt, seen[at.lost])
                again += len(left)
                seen = np.full(len(chains), -1)
                # A device loop counts its chains from the first.
                parts = [left] if loop is None else list(stretches(left))
                for part in parts:
                    found = run(part, at.attempt, alone=len(parts) == 1)
                    at.result[list(part)], seen[np.asarray(part) - chains.start] = found
                    past += len(part)
                at = at._replace(lost=seen != -1, attempt=at.attempt + 1)
        at = at.after(chains.stop)
        if checkpoint is not None and (checkpoint.due or at.first == n):  # a saving writes all results so far
            checkpoint.save(at)
    dropped = at.dropped.tolist()
    if not dropped:
        return at.result
    # Of these it is no longer known which ran away, and which have numbers that are not finite.
    why = "" if runaways is None else "diverged"
    stop_if_diverged(n if len(dropped) == n else 0, last_lost, n, energy_range, why=why)
    _LOG.warning("%d of %d chains diverged and were dropped: %s", len(dropped), n, ", ".join(map(str, dropped)))
    if samples is not None:
        samples.blank(dropped)
    return np.delete(at.result, dropped, axis=0)


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
