"""ebm-run sample: samples from noise."""

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
    InitOption,
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
from ..runtime.replay_buffer import CAPACITY, SHARE
from .draw import draw
from .option_texts import (
    array_or_none,
    buffer_of,
    composition_of,
    conditions_of,
    limit_process,
    numbers_of,
    sampler_settings,
)

__all__ = ["sample"]


def sample(
    bundle: BundleArgument,
    n: Annotated[int, typer.Option("-n", help="Number of samples.", min=1)] = 64,
    out: Annotated[Path, typer.Option(help="FILE.npy to write, [n, *S] float32.")] = Path("samples.npy"),
    seed: Annotated[
        int | None,
        typer.Option(
            help="Same seed, same samples. If left out it is 0, or with --buffer one that follows from the states in it, so that each turn "
            "has noise of its own; the seed is printed."
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
    init: InitOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="FILE.npy [M, *S] that --init data picks starts from; the bundle's own if left out."),
    ] = None,
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
    known: Annotated[Path | None, typer.Option(help="FILE.npy with the numbers that --keep keeps.")] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            help="Chains for each sample, of which the lowest is kept; --first is then the first sample's number.",
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
    buffer: Annotated[
        Path | None,
        typer.Option(
            help="FILE.npy of states that chains start from, and where they end put back; made where there is none."
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help=f"Share of chains that start anew with --buffer, from 0 to 1; {SHARE} if left out."),
    ] = None,
    capacity: Annotated[
        int | None,
        typer.Option(
            help=f"Most states in --buffer, the oldest of which are forgotten; {CAPACITY} if left out, or as many as there are where "
            "these are more.",
            min=1,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw samples from noise with the bundle's sampler."""
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
            n=n,
            data=array_or_none(data),
            backend=backend,
            precision=precision,
            threads=threads,
            exact=exact,
            fuse=fuse,
            keep=array_or_none(keep),
            known=array_or_none(known),
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
            buffer=buffer_of(buffer, share, capacity),
        ),
        as_json,
    )
