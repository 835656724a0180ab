"""A loaded energy-based model: scores and samples."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, get_args, overload

import numpy as np

from .arguments import (
    check_choice,
    check_conditions,
    check_count,
    check_first,
    check_range,
    check_room,
    check_seconds,
    check_states,
    check_writable,
    split_keywords,
)
from .best_runs import BestRuns, check_deadline
from .best_so_far import BestSoFar, Steps
from .chain import rows_of
from .checkpoint import Checkpoint, fused_in
from .config import SamplerConfig
from .divergence import Divergence
from .engine import Engine
from .errors import UsageError
from .fitting_batch import largest_call
from .fused_choice import FusedChoice, is_faster
from .fused_steps import Fused
from .gradient_scale import ScaledScore
from .judged import Judged
from .kept import check_kept
from .manifest import ModelSpec
from .method import replicas
from .noise import normal
from .on_device import loop_for
from .precision_schedule import Span
from .progress import Callback
from .request import Request
from .row_norms import square_sums
from .run import largest_batch
from .run_identity import identity_of
from .runaway import Runaways
from .seen_ranges import SeenRanges
from .start import Start, check_start
from .states_on_the_way import sample_file_of
from .turns import Turns
from .usable_settings import check_settings
from .warming import blank_conditions, warm_block, warm_steps
from .whole_run import fused_for, run_whole

__all__ = ["Ebm"]


class Ebm:
    """An energy-based model on an engine. A context manager; `close` frees the engine.

    `load` makes one from a bundle. Made directly, it runs any engine, such as a `FunctionEngine`.

    Args:
        engine: open by the time of the first call; closed with the Ebm.
        model: what the energy takes.
        sampler: settings that calls start from.
        data: [M, *S] float32 states for init="data", where a call gives none.
        max_batch: most samples in one engine call; None picks about 2**18 numbers of x.
        fitting: samples in one engine call on a CPU, where there are more and nobody says how many; None is `max_batch`. Deadlines and streams, whose
            chains all go into one call, go by `max_batch` alone.
        choice: one line that says which engine this is and why.
        schedule: spans of steps and the engine that runs each, in place of `engine`, which then only scores; one
            engine may run several spans.
        exact: an engine of the energy that samples are to follow exactly. Chains move on `engine`, its surrogate, and are
            corrected (see `samplers/surrogate.py`); `score` asks the exact one.
        fused: takes several steps of the engine in one call; opened when it is first used, closed with the Ebm.
        telling: the same for deadlines, streams and an energy range: it tells of each step.
        fuse: whether they do; None lets measurement say, see `load`.
        fused_is_faster: what was measured of that on this device before, by the number of chains; None where nothing was.
        fingerprint: of what the engines were made from, so that a checkpoint is not gone on with on other ones.
        judged: name of a precision that was calibrated and judged along chains with the settings of `sampler`, and may be far off
            elsewhere; "" where there is none.
        energy_rounding: by how much it rounds differences of energies, see `manifest.Artifact`; None where nobody knows.
        parts: energies that this one is made of, closed with it: they may have more engines than the one that it asks. A low precision
            of theirs was judged without the others.

    Attributes:
        model: what the energy takes.
        sampler: settings that calls start from.
        choice: one line that says which engine this is and why.
        fingerprint: of what the engines were made from.
        data: [M, *S] float32 states for init="data"; None where there are none.

    Calls may come from several threads, which then take turns, and from a callback or between two states of `stream`. A callback that
    waits for another thread's call waits for ever: its own call has the turn.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModelSpec,
        sampler: SamplerConfig | None = None,
        *,
        data: np.ndarray | None = None,
        max_batch: int | None = None,
        fitting: int | None = None,
        choice: str = "",
        schedule: Sequence[tuple[Span, Engine]] = (),
        exact: Engine | None = None,
        fused: Fused | None = None,
        telling: Fused | None = None,
        fuse: bool | None = None,
        fused_is_faster: Mapping[int, bool] | None = None,
        fingerprint: str = "",
        judged: str = "",
        energy_rounding: float | None = None,
        parts: Sequence[Ebm] = (),
    ) -> None:
        if schedule and exact is not None:
            raise UsageError("exact sampling corrects one engine: give a schedule of engines or exact, not both")
        self.model = model
        self.sampler = sampler or SamplerConfig()
        self.choice = choice
        self._engine = engine
        self._schedule = tuple(schedule)
        self._exact = exact
        self._fused = FusedChoice(fused, fuse, fused_is_faster, self._is_faster)
        self._telling = FusedChoice(telling, fuse, None, self._is_faster)
        self._best_runs = BestRuns(self._telling)
        self.fingerprint = fingerprint
        self._judged = Judged(judged, energy_rounding)
        self._seen = SeenRanges(model.cond)
        self._told_of_far = threading.Event()
        self._parts = tuple(parts)
        self._turns = Turns(self._engines)
        self.data = None if data is None else check_states("data", data, model.x.shape)
        if max_batch is not None:
            check_count("max_batch", max_batch)
        self._max_batch = max_batch or largest_call(model.x.shape)
        self._fitting = min(fitting or self._max_batch, self._max_batch)

    @property
    def engine(self) -> Engine:
        """The engine that `score` asks: the exact one, or that of the last precision, where there are several."""
        return self._exact or self._engine

    @property
    def _engines(self) -> list[Engine]:
        """All engines that take single steps or correct them, each once."""
        found = (self._engine, self._exact, *(engine for _, engine in self._schedule))
        return list(dict.fromkeys(engine for engine in found if engine is not None))

    @property
    def max_batch(self) -> int:
        """Most samples in one engine call."""
        return self._max_batch

    @property
    def fitting(self) -> int:
        """Samples in one engine call where there are more and nobody says how many; on a GPU as many as it takes."""
        if self._fitting < self._max_batch and any(part.gpu for engine in self._engines for part in engine.parts):
            return self._max_batch
        return self._fitting

    def score(self, x: Any, /, *, cond: Mapping[str, Any] | None = None, **named: Any) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the energy and its gradient.

        There is no running gradient scale here, so an engine that needs one is asked twice: once to find it, once to answer.
        With a schedule of precisions it is the last one's engine, which decides the samples; in exact sampling it is
        the exact one.

        Args:
            x: [B, *S], any real type; computed in float32.
            cond: conditioning arrays by name, each with B rows, or 1 that all samples share.
            **named: the same, as keywords.

        Returns:
            energy [B] float32 and dE/dx [B, *S] float32, both new arrays; NaN where a state is not finite.

        Raises:
            UsageError: an argument has a wrong name, type or shape.
        """
        states = check_states("x", x, self.model.x.shape)
        # An input may itself be called cond.
        given = {**named, **cond} if isinstance(cond, Mapping) else named if cond is None else {**named, "cond": cond}
        conditions = check_conditions(given, self.model.cond, len(states))
        self._seen.warn_of(conditions)
        energies = np.empty(len(states), dtype=np.float32)
        grads = np.empty_like(states)
        with self._turns.taken():
            step = self.fitting
            for first in range(0, len(states), step):
                batch = range(first, min(first + step, len(states)))
                rows = slice(batch.start, batch.stop)
                shared = {name: rows_of(array, batch, 1) for name, array in conditions.items()}
                energies[rows], grads[rows] = ScaledScore(self.engine, shared)(states[rows])
        # Some libraries make a plausible answer of them, as of broken conditions.
        broken = ~np.isfinite(square_sums(states))
        energies[broken], grads[broken] = np.nan, np.nan
        return energies, grads

    def warm(self, n: int, config: SamplerConfig | None = None, **keywords: Any) -> None:
        """Asks every engine for answers to n chains, so that the first deadline does not pay for what is done once.

        Libraries compile for a batch size, reserve memory and start threads at the first call, which can take a thousand
        times as long as the next one.

        Args:
            n: number of chains that calls to come will have.
            config: settings of these calls; None is the bundle's.
            **keywords: settings of these calls that are other ones, by which engine calls may differ too: with sampler="tempering" they take
                all replicas of a chain.

        Raises:
            UsageError: n is no number of at least 1, a setting has a wrong name or value, or not even one chain fits into an engine call.
        """
        check_count("n", n)
        overrides, _ = split_keywords(keywords, ())
        settings = (config or self.sampler).replace(**overrides)
        if overrides:  # without them nobody has said yet what calls will have
            check_settings(settings, overrides, [span for span, _ in self._schedule], exact=self._exact is not None)
        with self._turns.taken():
            most, batch = (largest_batch(settings, n, each) for each in (self._max_batch, self._fitting_for(settings)))
            for size in {batch, n % batch or batch} | ({n} if most == n else set()):
                warm_steps(self._engines, self.model, size * replicas(settings))
                fused = self._fused.open_for(settings, size, calls=math.inf)
                if fused is not None:
                    warm_block(self._engine, fused, self.model, settings, size)
            if most == n:  # else neither a deadline nor a stream can be asked of them
                start, cond = normal(0, 0, range(n), self.model.x.shape), blank_conditions(self.model, n)
                self._best_runs.warm(
                    self._engine,
                    settings,
                    n,
                    functools.partial(self.refine, start, cond=cond),
                    lambda fused: warm_block(self._engine, fused, self.model, settings, n),
                )

    @overload
    def sample(self, n: int, seed: int = 0, *, deadline_ms: None = None, **keywords: Any) -> np.ndarray: ...

    @overload
    def sample(self, n: int, seed: int = 0, *, deadline_ms: float, **keywords: Any) -> BestSoFar: ...

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        x0: Any = None,
        data: Any = None,
        keep: Any = None,
        known: Any = None,
        config: SamplerConfig | None = None,
        cond: Mapping[str, Any] | None = None,
        max_batch: int | None = None,
        callback: Callback | None = None,
        diverged: Divergence = "stop",
        energy_range: tuple[float, float] | None = None,
        deadline_ms: float | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 10.0,
        every: int | None = None,
        out: str | Path | None = None,
        **keywords: Any,
    ) -> np.ndarray | BestSoFar:
        """Runs n chains and returns where they end.

        Chain i's start and noise depend on the seed and on i alone, not on n, on how chains are batched, or on the call that runs it.

        With an exact engine (see `load`) the samples follow exp(-E / T) of that engine, inside the bounds, once the
        chains have forgotten their start. T is `temperature`, or noise^2 / (2 * step_size) where `noise` is set, one number
        for all steps. `step_size` is where the adaptation starts; `grad_clip` shortens proposals and changes nothing of
        what is sampled; `bounds` reflect; `order` has no meaning.

        Args:
            n: number of chains, at least 1.
            seed: whole number, at least 0 and below 2**64.
            first: number of the first chain, which start and noise are drawn by: chains 0 to 63 in one process and, with first=64, 64 to
                127 in another are the 128 of one call; where there are fused steps, both with the same `fuse`. Arrays hold the rows of
                this call's chains, and what is told of chains counts them from 0.
            x0: [n, *S] or [1, *S] states to start from, in place of what `init` says; numbers outside the bounds are moved onto these. A chain
                whose state is not finite has diverged at its start.
            data: [M, *S] states that init="data" picks from; left out, the bundle's own. Refused where nothing picks from them.
            keep: [n, *S] or [1, *S] bool, true where a number of x stays what it is; the others are sampled given those.
            known: [n, *S] or [1, *S], the numbers that stay where `keep` says so; left out, those of `x0`.
            config: settings to start from in place of the bundle's.
            cond: conditioning arrays by name, for a name that is taken by one of these parameters.
            max_batch: most samples in one engine call; never more than the engine takes.
            callback: told about the start and every step, see `progress.Progress`; about blocks of steps where `load` was asked to
                fuse them.
            diverged: what happens to a chain whose numbers are no longer finite, or which ran away: "stop" raises, "restart" runs it again
                with other noise (and another start, where it was drawn), "drop" leaves it out of the result.
            energy_range: (lowest, highest) energy of a chain that is well; one outside counts as diverged.
            deadline_ms: return this many milliseconds after the call, or a little earlier, with each chain's best state so
                far. All chains go into one engine call then, and one that diverges keeps its best from before. Call `warm`
                beforehand, so that no engine is compiled in that time.
            checkpoint: file that the run's state is saved to. The same call after a kill goes on from there and ends with the same
                bits; after the end it returns the samples again. Remove the file when they are safe.
            checkpoint_seconds: time between two savings, at least 0; with 0 the run is saved at the start and after every step, or block of fused ones.
            every: write the states after every so many steps to `out`.
            out: .npy file [steps // every, n, *S] float32, written as the chains go, in constant memory; see `SampleFile`.
            **keywords: any field of `SamplerConfig`, and conditioning arrays by name, each with n rows or 1. A name
                that is both is the conditioning array; that setting can be changed through `config`.

        Returns:
            [n, *S] float32, fewer where chains were dropped; with a deadline a `BestSoFar`.

        Raises:
            UsageError: an argument has a wrong name, type, shape or value.
            DivergenceError: numbers of a chain are no longer finite, it ran away, or its energy is out of range; with a deadline no
                chain ever had a finite energy.
        """
        called = perf_counter()
        request = self._prepare(
            n, seed, first, x0, data, keep, known, config, cond, max_batch, keywords, together=deadline_ms is not None
        )
        check_choice("diverged", diverged, get_args(Divergence))
        energy_range = check_range("energy_range", energy_range)
        if energy_range is not None:  # whoever says which energies are well says so of all
            request = request._replace(runaways=None)
        if every is not None:
            check_count("every", every)
            every = int(every)
        if deadline_ms is not None:
            milliseconds = check_deadline(
                deadline_ms,
                callback=callback,
                diverged=None if diverged == "stop" else diverged,  # a chain that diverges keeps its best
                checkpoint=checkpoint,
                every=every,
                out=out,
                energy_range=energy_range,
            )
            deadline = called + milliseconds / 1000
            with self._turns.taken(deadline):
                best, pace = self._best_runs.by_deadline(request, deadline)
            pace.handed_over()
            return best
        with self._turns.taken():
            loop = loop_for(request.engine, request.config, callback, exact=request.exact, switches=request.switches)
            earlier = None
            if checkpoint is not None:
                check_writable("checkpoint", Path(checkpoint), replaced=True)  # before engines are compiled
                earlier = fused_in(checkpoint)
            fused = (
                None
                if loop is not None
                else fused_for(
                    request,
                    self._fused,
                    self._telling,
                    callback=callback,
                    energy_range=energy_range,
                    every=every,
                    earlier=earlier,
                )
            )
            kept = None
            if checkpoint is not None:
                identity = identity_of(
                    request,
                    model=self.model.name,
                    engines=self._engines,
                    files=self.fingerprint,
                    fused=fused,
                    diverged=diverged,
                    energy_range=energy_range,
                    every=every,
                    out=None if out is None else Path(out).name,
                    on_device=loop is not None,
                )
                kept = Checkpoint(checkpoint, identity, seconds=checkpoint_seconds)
            with (
                kept or contextlib.nullcontext(),
                sample_file_of(request, every, out, kept) or contextlib.nullcontext() as samples,
            ):
                return run_whole(
                    request,
                    fused,
                    callback=callback,
                    diverged=diverged,
                    energy_range=energy_range,
                    checkpoint=kept,
                    samples=samples,
                )

    def stream(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        x0: Any = None,
        data: Any = None,
        keep: Any = None,
        known: Any = None,
        config: SamplerConfig | None = None,
        cond: Mapping[str, Any] | None = None,
        max_batch: int | None = None,
        seconds: float = 0.0,
        deadline_ms: float | None = None,
        **keywords: Any,
    ) -> Iterator[BestSoFar]:
        """Runs n chains and yields each chain's best state so far: at the start, whenever one became better, and at the end.

        Work is done only while the caller asks for the next one, and whoever has enough stops asking.

        Args:
            n: number of chains, which all go into one engine call.
            seed: as in `sample`, like all that follow.
            first: number of the first chain.
            x0: states to start from.
            data: states that init="data" picks from.
            keep: true where a number of x stays what it is.
            known: the numbers that stay.
            config: settings to start from.
            cond: conditioning arrays by name.
            max_batch: most samples in one engine call.
            seconds: at most one in so many seconds, but for the end; what became better meanwhile comes then.
            deadline_ms: the last one comes this many milliseconds after the call, or a little earlier, where the caller takes no time
                for those before. Call `warm` beforehand, as for `sample`.
            **keywords: settings and conditioning arrays.

        Raises:
            UsageError: an argument has a wrong name, type, shape or value; or another thread's call kept the engine until the deadline,
                and there is no state yet: later, that ends the stream with what it has.
            DivergenceError: no chain ever had a finite energy.
        """
        called = perf_counter()
        seconds = check_seconds("seconds", seconds)
        deadline = None if deadline_ms is None else called + check_deadline(deadline_ms) / 1000
        request = self._prepare(n, seed, first, x0, data, keep, known, config, cond, max_batch, keywords, together=True)
        by_turns = functools.partial(self._by_turns, deadline=deadline)
        with self._turns.taken(deadline):  # it may open an engine
            return self._best_runs.stream(request, by_turns, seconds=seconds, deadline=deadline)

    def _by_turns(self, steps: Steps, deadline: float | None) -> Steps:
        """The same steps, each in a turn of its own: whoever listens may make other calls between two of them."""
        first = True
        with contextlib.closing(steps):
            while True:
                with contextlib.ExitStack() as turn:
                    try:
                        turn.enter_context(self._turns.taken(deadline))
                    except UsageError:  # another thread has the engine until the deadline, which ends the steps
                        if first:
                            raise
                        return
                    now = next(steps, None)
                if now is None:
                    return
                first = False
                yield now

    @overload
    def refine(self, x0: Any, seed: int = 0, *, deadline_ms: None = None, **keywords: Any) -> np.ndarray: ...

    @overload
    def refine(self, x0: Any, seed: int = 0, *, deadline_ms: float, **keywords: Any) -> BestSoFar: ...

    def refine(self, x0: Any, seed: int = 0, **keywords: Any) -> np.ndarray | BestSoFar:
        """Runs one chain from each given state.

        Args:
            x0: [B, *S], any real type; left as it is.
            seed: of the noise; another one than that of the run that x0 comes from, whose noise it would repeat.
            **keywords: what `sample` takes beside the number of chains: `first`, `keep`, deadlines, checkpoints, settings, conditions.

        Returns:
            [B, *S] float32, fewer where chains were dropped; with a deadline a `BestSoFar`.

        Raises:
            UsageError: an argument has a wrong name, type, shape or value.
            DivergenceError: as in `sample`.
        """
        states = check_states("x0", x0, self.model.x.shape)
        drawn: np.ndarray | BestSoFar = self.sample(len(states), seed, x0=states, **keywords)
        return drawn

    def _prepare(
        self,
        n: int,
        seed: int,
        first: int,
        x0: Any,
        data: Any,
        keep: Any,
        known: Any,
        config: SamplerConfig | None,
        cond: Mapping[str, Any] | None,
        max_batch: int | None,
        keywords: Mapping[str, Any],
        *,
        together: bool,
    ) -> Request:
        """Checks the arguments of `sample` that `stream` takes too; `together` says whether all chains go into one engine call."""
        check_count("n", n)
        check_room("n", n, self.model.x.shape)
        check_first(first, n)
        if max_batch is not None:
            check_count("max_batch", max_batch)
        overrides, values = split_keywords(keywords, self.model.cond_names)
        settings = (config or self.sampler).replace(**overrides)
        spans = [span for span, _ in self._schedule]
        check_settings(settings, overrides, spans, exact=self._exact is not None)
        self._warn_of_precisions(settings)
        conditions = check_conditions({**values, **(cond or {})}, self.model.cond, n)
        self._seen.warn_of(conditions)
        check_start(settings, overrides, given=x0 is not None, data=data is not None)
        shape = self.model.x.shape
        states = None if x0 is None else check_states("x0", x0, shape, n)
        pool = self.data if data is None else check_states("data", data, shape)
        kept = check_kept(keep, known, states, shape, n, settings.bounds)
        engines = {span.first: engine for span, engine in self._schedule}
        return Request(
            config=settings,
            n=int(n),  # what is saved of it is Python's
            seed=seed,
            first=int(first),
            start=Start(settings, shape, seed, states, pool, kept, int(first)),
            cond=conditions,
            max_batch=min(max_batch or (self._max_batch if together else self._fitting_for(settings)), self._max_batch),
            engine=engines.pop(0, self._engine),
            switches=engines,
            exact=self._exact,
            runaways=Runaways(self.model, settings, self._told_of_far),
        )

    def _fitting_for(self, settings: SamplerConfig) -> int:
        """The same, but that all replicas of a chain go into one call."""
        return min(max(self.fitting, replicas(settings)), self._max_batch)

    def _warn_of_precisions(self, settings: SamplerConfig, beside: str = "") -> None:
        """Warns where a low precision, or that of a part, is asked where nobody judged it; see `Judged.warn_of`."""
        self._judged.warn_of(settings, self.sampler, beside)
        for part in self._parts:
            part._warn_of_precisions(settings, beside or self.model.name)

    def _is_faster(self, fused: Fused, config: SamplerConfig, batch: int) -> bool:
        """Times both ways, from the starts that calls will have."""
        return is_faster(self._engine, fused, config, batch, self.model, self.data)

    def close(self) -> None:
        """Frees the engines; safe to call twice."""
        with self._turns.taken():
            for engine in self._engines:
                engine.close()
            self._fused.close()
            self._best_runs.close()
        # After this turn, which is on some of a part's engines: its own begins with the first of all.
        for part in self._parts:
            part.close()

    def __enter__(self) -> Ebm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
