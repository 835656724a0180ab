"""ebm-run refine: samples from states that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import (
    Added,
    Anneal,
    Backend,
    Block,
    Bounds,
    BoundsMode,
    BundleArgument,
    CheckpointFile,
    CheckpointSeconds,
    CondFiles,
    Cpus,
    DeadlineMs,
    Diverged,
    Divergence,
    EnergyRange,
    Every,
    Exact,
    First,
    Friction,
    Fuse,
    GradClip,
    GradClipMode,
    JsonOption,
    Keep,
    Ladder,
    Leapfrog,
    MaxBatch,
    MemoryLimit,
    Mixture,
    Momentum,
    Noise,
    OrderOption,
    PrecisionName,
    Sampler,
    StatesFile,
    Steps,
    StepSize,
    Stream,
    TargetAccept,
    Temperature,
    Threads,
    WarmUp,
    Weight,
)
from ..runtime.array_file import read_given_array
from .draw import draw
from .option_texts import array_or_none, composition_of, conditions_of, limit_process, numbers_of, sampler_settings

__all__ = ["refine"]


def refine(
    bundle: BundleArgument,
    start: Annotated[Path, typer.Argument(help="FILE.npy with the states to start from, [n, *S].", show_default=False)],
    out: Annotated[Path, typer.Option(help="FILE.npy to write, [n, *S] float32.")] = Path("refined.npy"),
    seed: Annotated[
        int | None,
        typer.Option(
            help="Same seed, same samples. If left out it follows from the states in START, so that no noise of the run that they come from "
            "is repeated; the seed is printed. Parts of one run, with --first, need the same."
        ),
    ] = None,
    first: First = 0,
    cond: CondFiles = None,
    add: Added = None,
    weight: Weight = None,
    mixture: Mixture = False,
    backend: Backend = None,
    precision: PrecisionName = None,
    threads: Threads = None,
    cpus: Cpus = None,
    memory_limit: MemoryLimit = None,
    fuse: Fuse = None,
    steps: Steps = None,
    step_size: StepSize = None,
    noise: Noise = None,
    temperature: Temperature = None,
    grad_clip: GradClip = None,
    grad_clip_mode: GradClipMode = None,
    bounds: Bounds = None,
    order: OrderOption = None,
    sampler: Sampler = None,
    bounds_mode: BoundsMode = None,
    anneal: Anneal = None,
    warmup: WarmUp = None,
    target_accept: TargetAccept = None,
    leapfrog: Leapfrog = None,
    friction: Friction = None,
    momentum: Momentum = None,
    ladder: Ladder = None,
    exact: Exact = False,
    block: Block = None,
    keep: Keep = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            help="Chains from each state, of which the lowest is kept; --first is then the first state's number.",
            min=1,
        ),
    ] = None,
    diverged: Diverged = Divergence.stop,
    energy_range: EnergyRange = None,
    deadline_ms: DeadlineMs = None,
    stream: Stream = None,
    max_batch: MaxBatch = None,
    checkpoint: CheckpointFile = None,
    checkpoint_seconds: CheckpointSeconds = None,
    every: Every = None,
    states: StatesFile = None,
    as_json: JsonOption = False,
) -> None:
    """Run the bundle's sampler from given states."""
    settings = sampler_settings(locals())
    limit_process(cpus, memory_limit)
    from ..runtime.command import DrawOptions

    draw(
        DrawOptions(
            bundle=bundle,
            out=out,
            seed=seed,
            first=first,
            settings=settings,
            cond=conditions_of(cond),
            composition=composition_of(add, weight, mixture),
            start=read_given_array(start),
            backend=backend,
            precision=precision,
            threads=threads,
            exact=exact,
            fuse=fuse,
            keep=array_or_none(keep),
            candidates=candidates,
            diverged=diverged.value,
            energy_range=None if energy_range is None else numbers_of("--energy-range", energy_range),  # type: ignore[arg-type]
            deadline_ms=deadline_ms,
            stream=stream,
            max_batch=max_batch,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            every=every,
            states=states,
        ),
        as_json,
    )
