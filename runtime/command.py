"""What `ebm-run sample` and `ebm-run refine` do with their options."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .acceptance import AcceptanceMeter
from .arguments import check_room, check_seconds, check_states, check_writable
from .best_of import best_of
from .best_so_far import BestSoFar
from .buffer_turn import BufferFile, BufferTurn
from .checkpoint import dropped_in
from .composed_bundles import Composition, load_composition
from .divergence import Divergence
from .ebm import Ebm
from .energies import energies_of
from .errors import UsageError
from .fused_steps import FUSABLE
from .loading import load
from .progress import Callback, Progress, ProgressOnly
from .replaced_file import replacing, write_npy
from .schedule import temperature_schedule
from .seed_of_states import seed_of_states
from .start import start_states

__all__ = ["DrawOptions", "Drawn", "run_draw"]

_HELD_BY_READERS = os.name == "nt"
"""Whether a file that another process reads cannot be replaced."""
_BESIDE_BEST_SO_FAR = ("deadline_ms", "data", "first", "keep", "known")
"""What goes with runs of which the best states so far are wanted."""
_FLAGS = {"out": "--states", "candidates": "--best-of"}
"""Flags that have another name than what they give."""


@dataclass(frozen=True)
class DrawOptions:
    """The options of both commands; see their --help. Files that are read are read already.

    Attributes:
        seed: None is 0, or where chains go on from states one that follows from these: with the seed of the run that they come from
            its noise would be repeated.
        n: number of chains to draw; None where `start` says where chains begin.
        start: [n, *S], the states to refine; None draws them.
    """

    bundle: Path
    out: Path
    seed: int | None
    settings: Mapping[str, Any]
    cond: Mapping[str, np.ndarray]
    n: int | None = None
    start: np.ndarray | None = None
    data: np.ndarray | None = None
    composition: Composition | None = None
    backend: str | None = None
    precision: str | None = None
    threads: int | None = None
    exact: bool = False
    fuse: bool | None = None
    first: int = 0
    keep: np.ndarray | None = None
    known: np.ndarray | None = None
    candidates: int | None = None
    diverged: Divergence = "stop"
    energy_range: tuple[float, float] | None = None
    deadline_ms: float | None = None
    max_batch: int | None = None
    checkpoint: Path | None = None
    checkpoint_seconds: float | None = None
    every: int | None = None
    states: Path | None = None
    buffer: BufferFile | None = None
    stream: float | None = None

    @property
    def special(self) -> dict[str, Any]:
        """What was given of the arguments that `Ebm.sample` has beside seed, settings and conditions."""
        given = {
            "first": self.first or None,
            "data": self.data,
            "keep": self.keep,
            "known": self.known,
            "diverged": None if self.diverged == "stop" else self.diverged,
            "deadline_ms": self.deadline_ms,
            "energy_range": self.energy_range,
            "checkpoint": self.checkpoint,
            "checkpoint_seconds": self.checkpoint_seconds,
            "every": self.every,
            "out": self.states or (None if self.every is None else self.out.with_suffix(".states.npy")),
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Drawn:
    """What a command has to say.

    Attributes:
        result: what --json prints.
        steps: steps that were asked for.
    """

    result: dict[str, Any]
    steps: int


@dataclass
class _Watch:
    """Shows progress, and notes what is told of nowhere else."""

    tell: Callable[[str, int, int], None]
    drops: bool
    meter: AcceptanceMeter = field(default_factory=AcceptanceMeter)
    dropped: list[int] = field(default_factory=list)

    def __call__(self, now: Progress) -> None:
        self.meter(now)
        self.tell("sampling", *now.part)
        if self.drops and now.done == now.steps and now.diverged is not None:
            self.dropped += [now.chains[index] for index in np.flatnonzero(now.diverged)]


def run_draw(
    options: DrawOptions,
    tell: Callable[[str, int, int], None],
    hears: Callable[[Mapping[str, Any]], bool] = lambda line: True,
) -> Drawn:
    """Draws samples and writes them to `options.out`; a checkpoint is removed once they are on disk.

    Args:
        options: what to draw.
        tell: called with (what is being done, done, in all).
        hears: told of the best states on the way, once they are at `options.out`, where these are asked for. It says whether somebody
            still wants better ones.

    Raises:
        UsageError: an option cannot be right.
        LoadError: a file cannot be read.
        DivergenceError: chains diverge.
        OSError: a file cannot be written; what was at `options.out` is left.
    """
    if options.buffer is not None:
        # It takes ends of chains. Starts are picked by place in the call, so `--first` would pick the same ones.
        but = ("data", "keep", "known", "diverged", "energy_range", "checkpoint", "checkpoint_seconds", "every", "out")
        _refuse_beside("--buffer", options, but)
    if options.candidates is not None:
        _refuse_beside("--best-of", options, but=("first", "keep", "known", "diverged", "energy_range", "deadline_ms"))
    if options.deadline_ms is not None:
        _refuse_beside("--deadline-ms", options, but=(*_BESIDE_BEST_SO_FAR, "candidates"))
    if options.stream is not None:
        check_seconds("--stream", options.stream)
        _refuse_beside("--stream", options, but=_BESIDE_BEST_SO_FAR)
    _check_files(options)
    ebm, composition = _loaded(options)
    turn = None if options.buffer is None else BufferTurn(options.buffer, ebm.model.x.shape)
    with ebm, turn or contextlib.nullcontext():
        sampler = ebm.sampler.replace(**options.settings)
        if options.data is not None and sampler.init != "data":
            raise UsageError(
                f"--data: has no effect on chains that start by --init {sampler.init}; give --init data too"
            )
        watch = _Watch(tell, options.diverged == "drop")
        callback: Callback = watch
        if sampler.sampler in FUSABLE and not options.exact and not watch.drops:
            # There is no acceptance to measure.
            callback = ProgressOnly(lambda done, total: tell("sampling", done, total))
        start = options.start
        if start is not None:  # else it would be called x0, which nobody typed
            start = check_states("START", start, ebm.model.x.shape)
        seed = _seed_of(options, start, turn)
        drawn = _draw(ebm, options, start, seed, callback, turn, hears)
        dropped = watch.dropped
        if watch.drops and options.checkpoint is not None:  # batches that were done before a kill told nobody now
            dropped = dropped_in(options.checkpoint)
        if isinstance(drawn, np.ndarray):
            states, taken = drawn, {"dropped": dropped} if watch.drops else {}
        else:  # what there was at the deadline, or at the end of a stream
            states, energy = drawn.x, drawn.energy
            taken = {
                "steps": drawn.steps,
                "complete": drawn.complete,
                "diverged": np.flatnonzero(drawn.diverged).tolist(),
                "without_energy": np.flatnonzero(~np.isfinite(energy)).tolist(),
            }
        chosen = ebm.choice
        with replacing(options.out) as file:
            write_npy(file, states)
        if options.checkpoint is not None:
            # Before the buffer is another one, with which it would be refused for ever. Missing it is where a second run of the
            # same, begun after the chains' end, has removed it.
            options.checkpoint.unlink(missing_ok=True)
        buffered = {} if turn is None else {"buffer": turn.end(states, dropped)}
        if isinstance(drawn, np.ndarray):  # asked for once nothing can be lost
            own = {name: rows if len(rows) == 1 else np.delete(rows, dropped, 0) for name, rows in options.cond.items()}
            energy = energies_of(ebm, states, own)
    result = {
        "out": str(options.out),
        "shape": list(states.shape),
        "seed": seed,
        **_summary(energy),
        "engine": chosen,
        **composition,
        **taken,
        **buffered,
    }
    if options.every is not None:
        result["states"] = str(options.special["out"])
    if watch.meter.acceptance is not None:
        result["temperature"] = float(temperature_schedule(sampler)[-1])
        result["acceptance"] = watch.meter.acceptance
    if watch.meter.block_acceptance is not None:
        result["block_acceptance"] = watch.meter.block_acceptance
    return Drawn(result, sampler.steps)


def _refuse_beside(flag: str, options: DrawOptions, but: tuple[str, ...]) -> None:
    """Refuses what was given beside a flag, but for what goes with it, by the names that `DrawOptions` and its `special` have."""
    given = [*options.special, *(name for name in ("candidates", "buffer") if getattr(options, name) is not None)]
    if options.states is None and "out" in given:  # it follows from --every
        given.remove("out")
    flags = [_FLAGS.get(name, "--" + name.replace("_", "-")) for name in given if name not in but]
    flags = [other for other in flags if other != flag]
    if flags:
        raise UsageError(f"{flag} cannot be combined with {', '.join(flags)}: leave one of them out")


def _check_files(options: DrawOptions) -> None:
    """Refuses files to write that cannot be written, or that would overwrite each other."""
    if options.states is not None and options.every is None:
        raise UsageError("--states: is written after every so many steps; give --every as well")
    if options.checkpoint_seconds is not None and options.checkpoint is None:
        raise UsageError("--checkpoint-seconds: is how often --checkpoint FILE is written; give that as well")
    goes_on = options.checkpoint is not None and options.checkpoint.exists()
    # Name, file, and whether another file takes its place: states are gone on with by a run that is resumed.
    files = (
        ("--out", options.out, False),
        ("--states", options.special.get("out"), not goes_on),
        ("--checkpoint", options.checkpoint, True),
        ("--buffer", None if options.buffer is None else options.buffer.path, True),
    )
    names: dict[Path, str] = {}
    for name, path, replaced in files:
        if path is None:
            continue
        check_writable(name, path, replaced=replaced)
        other = names.setdefault(path.resolve(), name)
        if other != name:
            raise UsageError(f"{other} and {name}: both are {path}; give each a file of its own")


def _loaded(options: DrawOptions) -> tuple[Ebm, dict[str, Any]]:
    """The energy, and what --json says of it where it is that of several bundles."""
    how: dict[str, Any] = {
        "backend": options.backend,
        "precision": options.precision,
        "threads": options.threads,
        "max_batch": options.max_batch,
        "exact": "fp32" if options.exact else None,
        "fuse": options.fuse,
    }
    if options.composition is None:
        return load(options.bundle, **how), {}
    ebm, said = load_composition(options.bundle, options.composition, options.settings, options.cond, **how)
    return ebm, {"composition": said}


def _seed_of(options: DrawOptions, start: np.ndarray | None, turn: BufferTurn | None) -> int:
    """The seed that was given, or the one that is taken in its place."""
    if options.seed is not None:
        return options.seed
    states = start if turn is None else turn.states
    return 0 if states is None or not len(states) else seed_of_states(states)


def _draw(
    ebm: Ebm,
    options: DrawOptions,
    start: np.ndarray | None,
    seed: int,
    callback: Callback,
    turn: BufferTurn | None,
    hears: Callable[[Mapping[str, Any]], bool],
) -> Any:
    """Asks the Ebm: for samples, for the best of several, or for what there is at a deadline."""
    common = {"cond": options.cond, "max_batch": options.max_batch, **options.settings, **options.special}
    n = (options.n or 1) if start is None else len(start)
    if options.deadline_ms is not None:  # what is done once is not to be done in that time
        ebm.warm(n * (options.candidates or 1), **options.settings)
    if options.stream is not None:
        return _streamed(ebm.stream(n, seed, x0=start, seconds=options.stream, **common), options.out, hears)
    if options.deadline_ms is None:
        common["callback"] = callback
    if options.candidates is not None:
        drawn = best_of(ebm, n, options.candidates, seed, x0=start, **common)
        return drawn if isinstance(drawn, BestSoFar) else drawn[0]
    if start is not None:
        return ebm.refine(start, seed, **common)
    if turn is not None:
        for said in ("init", "data"):  # which the new starts have followed
            common.pop(said, None)
        common["x0"] = turn.start(_fresh_starts(ebm, options, n, seed), seed)
    return ebm.sample(n, seed, **common)


def _streamed(stream: Iterator[BestSoFar], out: Path, hears: Callable[[Mapping[str, Any]], bool]) -> BestSoFar:
    """Writes the best states to `out` as they come, as long as somebody hears of them; returns the last."""
    begun, steps = perf_counter(), -1
    for best in stream:
        if best.steps == steps:  # a deadline that came before the next step
            continue
        steps = best.steps
        try:
            with replacing(out, synced=False) as file:
                write_npy(file, best.x)
        except PermissionError:
            if not _HELD_BY_READERS:
                raise
            continue  # whoever reads the file just now has the states of the line before
        said = {"steps": steps, "seconds": round(perf_counter() - begun, 6), **_summary(best.energy)}
        if not hears(said):
            break
    return best


def _summary(energy: np.ndarray) -> dict[str, float]:
    return {
        "energy_mean": float(energy.mean()),
        "energy_min": float(energy.min()),
        "energy_max": float(energy.max()),
    }


def _fresh_starts(ebm: Ebm, options: DrawOptions, n: int, seed: int) -> np.ndarray:
    """[n, *S] float32, where these chains would start without a buffer."""
    check_room("n", n, ebm.model.x.shape)
    data = ebm.data if options.data is None else check_states("data", options.data, ebm.model.x.shape)
    return start_states(ebm.sampler.replace(**options.settings), ebm.model.x.shape, range(n), seed, data)
