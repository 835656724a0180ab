"""Times a step of the engines in a bundle, on this device."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import check_count
from .artifact_engine import engine_of, fused_of
from .backends import backend_of
from .bundle import Bundle
from .chain import chain_steps
from .device import usable_cores
from .engine import Engine
from .errors import UsageError
from .fused_steps import Fused
from .manifest import Artifact, TensorSpec
from .noise import normal
from .progress import Progress
from .runnable import why_not

__all__ = ["numbers_of_threads", "time_bundle"]

_LOG = logging.getLogger("ebm_export")

_SECONDS = 0.5
"""Time given to each engine and batch, after a warm-up."""
_TURN, _FEWEST = 0.05, 5
"""Longest time of one turn, and the fewest turns. Ways take turns, so that what slows the machine slows all of them, and each turn gives one
time: its own over its number of steps. A machine that stalls for 20 ms now and then stalls under half of the calls of one step,
whose median would not know of it, and each call of 64."""
_STEPS = 200_000
"""Steps of a chain that is never run to its end."""


@dataclasses.dataclass
class _Entry:
    """One way to take steps."""

    artifact: Artifact
    backend: str
    threads: int | None
    engine: Engine
    fused: Fused | None
    times: list[float] = dataclasses.field(default_factory=list)  # of a step, one for each turn
    spent: float = 0.0  # in all turns
    call: float = 0.0  # of one call

    @property
    def count(self) -> int:
        """Steps in one call."""
        return 1 if self.fused is None else self.fused.count


def time_bundle(
    path: str | Path,
    *,
    batches: Sequence[int],
    threads: Sequence[int | None] = (None,),
    fused: bool = True,
    seconds: float = _SECONDS,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Times a step of the bundle's sampler on every engine that runs here: engine, noise and update together.

    Args:
        path: the bundle.
        batches: batch sizes.
        threads: numbers of CPU threads to try; None leaves it to the library.
        fused: whether graphs of several steps are timed as well.
        seconds: time for each engine and batch.
        progress: called with (what is being done, done, in all).

    Returns:
        A row for each engine, number of threads and batch that it takes in one call: file, backend, precision, batch, threads (None for the library's own),
        fused (steps in one engine call, 0 for one by one), and the median, 10th and 90th percentile over turns of the time of one
        step in milliseconds.

    Raises:
        LoadError: the bundle or a file of it cannot be read.
        UsageError: a batch size is no whole number of at least 1, or no engine takes so many samples in one call.
    """
    for batch in batches:
        check_count("batches", batch)
    bundle = Bundle(path)
    here = [artifact for artifact in bundle.artifacts if artifact.role == "score" and why_not(artifact) is None]
    rows = []
    with ExitStack() as stack:
        entries = []
        for index, artifact in enumerate(here):
            if progress is not None:
                progress(f"opening {artifact.path}", index, len(here))
            backend = backend_of(artifact.target)
            # TensorRT's engines have no threads on the CPU, and several of one plan would fill a small board.
            for count in threads if backend != "tensorrt" else [None]:
                engine = stack.enter_context(engine_of(bundle, artifact, backend, threads=count))
                entries.append(_Entry(artifact, backend, count, engine, None))
                many = fused_of(bundle, artifact, backend, threads=count) if fused else None
                if many is not None and many.fits(bundle.sampler):
                    stack.callback(many.close)
                    many.open()
                    entries.append(_Entry(artifact, backend, count, engine, many))
        for number, batch in enumerate(batches):
            taken = [entry for entry in entries if batch <= (entry.engine.largest_batch or batch)]
            left_out = {entry.artifact.path: entry.engine.largest_batch for entry in entries if entry not in taken}
            for name, most in left_out.items():
                _LOG.warning(
                    "%s is not timed at a batch of %d: it takes %d samples in one call at the most", name, batch, most
                )
            for entry in taken:
                entry.times.clear()
                entry.spent = 0.0

            def tell(done: int, total: int, number: int = number, batch: int = batch) -> None:
                if progress is not None:
                    progress(f"timing a batch of {batch}", number * total + done, len(batches) * total)

            _take_turns(bundle, taken, batch, seconds, tell)
            rows += [_row(entry, batch) for entry in taken]
    if here and not rows:
        raise UsageError(
            f"batches: no engine of {path} that runs here takes {min(batches)} samples in one call: give smaller ones (--batch)"
        )
    return rows


def numbers_of_threads() -> list[int | None]:
    """Returns those worth a try on this device: the library's own, 1, which small networks are fastest with, and half of the cores."""
    cores = usable_cores()
    return [None, *sorted({1, max(1, cores // 2)})] if cores > 1 else [None]


def _take_turns(
    bundle: Bundle, entries: list[_Entry], batch: int, seconds: float, tell: Callable[[int, int], None]
) -> None:
    """Fills in the times of a step, one for each turn."""
    chains: list[Generator[Progress, None, None]] = []
    turns = max(_FEWEST, round(seconds / _TURN))
    try:
        for entry in entries:
            chains.append(_begun(bundle, entry, batch))
        for turn in range(turns):
            for index, entry in enumerate(entries):
                tell(turn * len(entries) + index, turns * len(entries))
                if len(entry.times) >= _FEWEST and entry.spent > seconds:
                    continue  # slow: it has had its time
                # The same for both ways of one engine, which may not be told apart by what a short turn missed.
                longest = max(other.call for other in entries if other.engine is entry.engine)
                if not _turn(entry, chains[index], max(seconds / turns, min(longest, seconds))):
                    chains[index].close()
                    chains[index] = _begun(bundle, entry, batch)
    finally:
        for chain in chains:
            chain.close()


def _begun(bundle: Bundle, entry: _Entry, batch: int) -> Generator[Progress, None, None]:
    """A chain that is past its start and the calls in which libraries compile and bind memory; the last of these is timed."""
    chain = _chain(bundle, entry, batch)
    for _ in range(4):
        begun = time.perf_counter()
        next(chain)
    entry.call = time.perf_counter() - begun
    return chain


def _turn(entry: _Entry, chain: Iterator[Progress], seconds: float) -> bool:
    """Takes steps for so long, and whether it is of use for as many again.

    After a divergence it is not: steps are other work then, and fused ones come to it sooner.
    """
    calls, passed, begun = 0, 0.0, time.perf_counter()
    now = None
    while passed < seconds:
        told = next(chain, None)
        if told is None:
            break
        now = told
        calls += 1
        passed = time.perf_counter() - begun
        if told.diverged is not None:
            break
    entry.spent += passed
    if calls:
        entry.times.append(passed / (calls * entry.count))
    return now is not None and now.diverged is None and 2 * now.done < now.steps


def _chain(bundle: Bundle, entry: _Entry, batch: int) -> Generator[Progress, None, None]:
    """Steps of the bundle's sampler from noise, as far as it is one that does not adapt: else Langevin dynamics."""
    config = bundle.sampler.replace(steps=_STEPS, warmup=0)
    if config.sampler not in ("langevin", "underdamped", "optimize", "preconditioned"):
        config = config.replace(sampler="langevin")
    generator = np.random.default_rng(0)
    cond = {spec.name: _condition(spec, generator) for spec in bundle.model.cond}
    start = normal(0, 0, range(batch), bundle.model.x.shape)
    return chain_steps(
        entry.engine, config, start, range(batch), batch, cond=cond, stop_when_diverged=False, fused=entry.fused
    )


def _condition(spec: TensorSpec, generator: np.random.Generator) -> np.ndarray:
    """One row, which all samples share."""
    shape = (1, *spec.shape)
    if spec.dtype == "float32":
        return generator.standard_normal(shape, dtype=np.float32)
    return np.zeros(shape, spec.dtype)  # any table has a row 0


def _row(entry: _Entry, batch: int) -> dict[str, Any]:
    low, median, high = 1e3 * np.percentile(entry.times, [10, 50, 90])
    return {
        "file": entry.artifact.path,
        "backend": entry.backend,
        "precision": entry.artifact.precision,
        "batch": batch,
        "threads": entry.threads,
        "fused": 0 if entry.fused is None else entry.fused.count,
        "median ms": round(float(median), 5),
        "p10 ms": round(float(low), 5),
        "p90 ms": round(float(high), 5),
    }
