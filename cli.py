"""The commands: ebm-export on the workstation, ebm-run on the device, ebm-compare on either.

Each is a thin layer over one call of the library. Results go to stdout, progress and messages to stderr. An error that a
user can mend is one line and its exit code (runtime/errors.py), and so is what the system refuses; anything else is a bug and
keeps its traceback. Ctrl-C is the business of entry.py.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from .options import (
    Anneal,
    Backend,
    Block,
    Bounds,
    BoundsMode,
    BundleArgument,
    CheckpointFile,
    Classes,
    CondFiles,
    Cpus,
    DeadlineMs,
    Diverged,
    Divergence,
    EnergyForm,
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
    Momentum,
    Noise,
    OrderOption,
    Precision,
    PrecisionName,
    Sampler,
    Seed,
    StatesFile,
    Steps,
    StepSize,
    Target,
    TargetAccept,
    Temperature,
    Threads,
    WarmUp,
    array_of,
    array_or_none,
    as_typed,
    chosen,
    conditions_of,
    numbers_of,
    sampler_settings,
)
from .runtime.batch_range import parse_batch_range
from .runtime.errors import EbmExportError, QualityGateError, UsageError
from .terminal import LOG, print_json, progress, table

if TYPE_CHECKING:
    from .runtime.command import DrawOptions

__all__ = ["ebm_compare", "ebm_export", "ebm_run"]

_run = typer.Typer(
    name="ebm-run",
    help="Sample from a bundle on the device. Needs no torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would swallow the brackets of a shape
)


def export_command(
    model: Annotated[
        Path,
        typer.Argument(
            help="torch.export archive, TorchScript, checkpoint, state_dict or safetensors.", show_default=False
        ),
    ],
    # Texts, so that the error about several in one can say how to give them.
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(Target), help="What to write; repeat for several; onnxruntime if left out."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(Precision),
            help="In what engines compute; repeat for several; fp32 if left out. int8 and mixed are calibrated on the "
            "model's own chains and judged by their samples, which takes minutes. mixed picks what runs in INT8 by "
            "measured time.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle to write; MODEL with the ending .ebm if left out.")] = None,
    factory: Annotated[
        str | None, typer.Option("--model", help="pkg.mod:callable or file.py:callable that builds the module.")
    ] = None,
    model_arg: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for --model, such as width=64; repeat for several.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of x without the batch, such as 1,28,28.")] = None,
    cond: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=SHAPE of a conditioning input without the batch: obs=3,96,96, or with its type: label:int64= (one whole number), "
            "mask:bool=16. Or NAME=FILE.npy with real rows of it, [R, ..], "
            "where engines are then compared, calibrated and judged."
        ),
    ] = None,
    wrt: Annotated[
        str | None, typer.Option(help="Parameter of forward that is refined; the first if left out.")
    ] = None,
    energy: Annotated[
        EnergyForm | None,
        typer.Option(help="How the output becomes an energy; if left out what the archive says, else as it is."),
    ] = None,
    state_key: Annotated[str | None, typer.Option(help="Key of the weights inside a checkpoint.")] = None,
    strip_prefix: Annotated[str | None, typer.Option(help="Prefix to take off the weights' names.")] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Unpickle a whole module. This runs code from the file.")
    ] = False,
    sampler: Annotated[Path | None, typer.Option(help="TOML or JSON file with sampler settings.")] = None,
    steps: Steps = None,
    step_size: StepSize = None,
    noise: Noise = None,
    temperature: Temperature = None,
    grad_clip: GradClip = None,
    grad_clip_mode: GradClipMode = None,
    bounds: Bounds = None,
    init: InitOption = None,
    order: OrderOption = None,
    calibration_data: Annotated[
        Path | None,
        typer.Option(
            help="FILE.npy [M, *S] with real data. INT8 needs none, as it is calibrated on chains; given, it is calibrated "
            "on these too. With --init data, chains start there. Where --cond NAME=FILE.npy has as many rows, row i belongs "
            "to state i; else they are combined in turns."
        ),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(
            help="The quality gate, above 1: how far an engine's samples may be from FP32's, in units of the distance "
            "between FP32 samples of two seeds. 1.25 if left out. Engines that fail are not written (exit code 6). It "
            "judges int8 and mixed, and fp16 and bf16 if one of these two or this option is asked for; the onnx file behind a "
            "TensorRT plan too.",
        ),
    ] = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Write int8 without judging its samples.")] = False,
    features: Annotated[
        str | None,
        typer.Option(
            help="What the gate compares samples by: pixels, model, or FILE.onnx from x to features; pixels if left out."
        ),
    ] = None,
    classes: Classes = None,
    smallest_difference: Annotated[
        float | None,
        typer.Option(
            help="Shift of the energy that the gate should see, in standard deviations of the energy; 0.15 if left out. "
            "Half of it takes four times as many chains: 800 of each engine for 0.15, 1800 for 0.1.",
            min=0.02,
        ),
    ] = None,
    search_seconds: Annotated[
        float | None,
        typer.Option(
            help="Time after which the search for mixed begins no new trial, and the best so far is taken. It counts from the "
            "first trial, after the calibration; a trial that runs is finished, which may take minutes.",
            min=0,
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="MIN:OPT:MAX batch of engines built for a range; 1:8:64 if left out.")
    ] = "",
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these options; flags win.")] = None,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify", help="Compare every engine that can run here with PyTorch; on if left out."
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            help="Bits of INT8 weights for OpenVINO. 7 for devices whose x86 CPU has no VNNI (AVX2 alone), where products of 8-bit "
            "numbers overflow, 8 for all others; if left out, what the CPU needs that exports. Needs int8 or mixed.",
            min=7,
            max=8,
        ),
    ] = None,
    ranges: Annotated[
        str | None,
        typer.Option(
            help="How INT8 ranges of activations are read off the states: mse, min-max, percentile or entropy; mse if left out. Needs "
            "int8 or mixed."
        ),
    ] = None,
    no_split: Annotated[
        bool,
        typer.Option(
            "--no-split",
            help="Keep what depends on conditions alone in the score graph. If left out, an encoder of an observation runs "
            "once per chain and not at each step.",
        ),
    ] = False,
    fuse: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Write graphs that take K steps of the sampler in one call too (16 is good for small networks) and, with the target onnx "
            "or onnxruntime, a file with a whole chain, noise included, for any ONNX runtime (not in bf16).",
            min=2,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Export an energy-based model: E and dE/dx as ONNX, OpenVINO and TensorRT engines, each checked against PyTorch.

    ebm-export model.pt --target tensorrt

    needs nothing else when the file says enough, as a torch.export archive does (write one with
    ebm_export.exporter.save_energy). For weights alone, name what builds the module and the shape of x:

    ebm-export weights.pt --model mypkg.nets:Energy --shape 3,32,32 --target openvino --precision fp32 --precision bf16
    """
    settings = sampler_settings({**locals(), "sampler": None})  # --sampler is a file here
    targets, precisions = chosen("--target", target, Target), chosen("--precision", precision, Precision)
    from .exporter.command import ExportOptions, run_export

    options = ExportOptions(
        model=model,
        targets=targets,
        precisions=precisions,
        out=out,
        factory=factory,
        model_args=model_arg or [],
        shape=shape,
        cond=cond or [],
        wrt=wrt,
        energy=energy.value if energy else None,
        state_key=state_key,
        strip_prefix=strip_prefix,
        trust_pickle=trust_pickle,
        sampler=sampler,
        settings=settings,
        file_settings={},
        calibration_data=calibration_data,
        batch=batch,
        verify=verify,
        gate=gate,
        no_gate=no_gate,
        features=features,
        classes=classes,
        smallest_difference=smallest_difference,
        search_seconds=search_seconds,
        weight_bits=weight_bits,
        ranges=ranges,
        no_split=no_split,
        fuse=fuse,
        force=force,
    )
    with progress() as tell:
        report, rows = run_export(options.with_file(config), tell)
    if as_json:
        print_json({"path": str(report.path), "sampler": report.sampler.to_dict(), "artifacts": rows})
    else:
        table(f"{report.path}  ({report.seconds:.0f} s)", rows, "note")
    if report.failure is not None:  # after what was written all the same
        raise report.failure
    if report.found_sampler:
        LOG.print(
            f"[yellow]no sampler settings were given: step size {report.sampler.step_size:g} was found, good enough to "
            "verify with; give the model's own (--steps, --step-size, --noise, --init, ..) before sampling",
            soft_wrap=True,
        )


@_run.command()
def info(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Folder that ebm-export wrote; the device alone if left out.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what this device has, or what is in a bundle and which of it this device can run."""
    if bundle is None:
        _device_info(as_json)
        return
    from .runtime.bundle import Bundle
    from .runtime.method import settings_of
    from .runtime.runnable import why_not

    opened = Bundle(bundle)
    rows = []
    for artifact in opened.artifacts:
        reason = why_not(artifact)
        if reason is None and not (opened.path / artifact.path).is_file():
            reason = "the file is missing: copy the whole folder, or export again"
        rows.append(
            {
                "file": artifact.path,
                "role": artifact.role,
                "target": artifact.target,
                "precision": artifact.precision,
                "status": artifact.status,
                "runs here": "yes" if reason is None else "no",
                "note": "; ".join(filter(None, (artifact.note, reason))),
            }
        )
    model, sampler = opened.manifest.model, opened.manifest.sampler.to_dict()
    if as_json:
        print_json({"model": dataclasses.asdict(model), "sampler": sampler, "artifacts": rows})
        return
    inputs = [model.x, *model.cond]
    table(
        f"{model.name}: " + ", ".join(f"{spec.called} {list(spec.shape)} {spec.dtype}" for spec in inputs), rows, "note"
    )
    used = settings_of(opened.manifest.sampler.sampler)
    print("sampler: " + ", ".join(f"{key}={value}" for key, value in sampler.items() if key in used))


@_run.command()
def verify(
    bundle: BundleArgument,
    backend: Annotated[str | None, typer.Option(help="Only this backend; every one if left out.")] = None,
    precision: Annotated[str | None, typer.Option(help="Only this precision; every one if left out.")] = None,
    threads: Threads = None,
    as_json: JsonOption = False,
) -> None:
    """Compare this device's engines with PyTorch's answers, which the bundle carries."""
    from .runtime.verify_bundle import verify_bundle

    with progress() as tell:
        rows = verify_bundle(bundle, backend=backend, precision=precision, threads=threads, progress=tell)
    if as_json:
        print_json(rows)
    else:
        table(str(bundle), rows, "note")
    if all(row["result"] == "not run" for row in rows):
        LOG.print("nothing was compared: none of these engines runs here", style="yellow")
    if any(row["result"] == "failed" for row in rows):
        raise typer.Exit(5)


@_run.command()
def build(
    bundle: BundleArgument,
    precision: Annotated[list[str] | None, typer.Option(help="Repeat for several; all if left out.")] = None,
    batch: Annotated[str, typer.Option(help="MIN:OPT:MAX batch of the plan.")] = "1:8:64",
    as_json: JsonOption = False,
) -> None:
    """Build TensorRT plans for this device from the ONNX files in the bundle."""
    from .runtime.build import build_plans

    with progress() as tell:
        rows = build_plans(bundle, precisions=precision, batch=parse_batch_range(batch), progress=tell)
    if as_json:
        print_json(rows)
    else:
        table(str(bundle), rows)


@_run.command()
def sample(
    bundle: BundleArgument,
    n: Annotated[int, typer.Option("-n", help="Number of samples.", min=1)] = 64,
    out: Annotated[Path, typer.Option(help="FILE.npy to write, [n, *S] float32.")] = Path("samples.npy"),
    seed: Seed = 0,
    first: First = 0,
    cond: CondFiles = None,
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
    max_batch: MaxBatch = None,
    checkpoint: CheckpointFile = None,
    every: Every = None,
    states: StatesFile = None,
    as_json: JsonOption = False,
) -> None:
    """Draw samples from noise with the bundle's sampler."""
    settings = sampler_settings(locals())
    _limit(cpus, memory_limit)
    from .runtime.command import DrawOptions

    _report(
        DrawOptions(
            bundle=bundle,
            out=out,
            seed=seed,
            first=first,
            settings=settings,
            cond=conditions_of(cond),
            n=n,
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
            max_batch=max_batch,
            checkpoint=checkpoint,
            every=every,
            states=states,
        ),
        as_json,
    )


@_run.command()
def refine(
    bundle: BundleArgument,
    start: Annotated[Path, typer.Argument(help="FILE.npy with the states to start from, [n, *S].", show_default=False)],
    out: Annotated[Path, typer.Option(help="FILE.npy to write, [n, *S] float32.")] = Path("refined.npy"),
    seed: Seed = 0,
    first: First = 0,
    cond: CondFiles = None,
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
    diverged: Diverged = Divergence.stop,
    energy_range: EnergyRange = None,
    deadline_ms: DeadlineMs = None,
    max_batch: MaxBatch = None,
    checkpoint: CheckpointFile = None,
    every: Every = None,
    states: StatesFile = None,
    as_json: JsonOption = False,
) -> None:
    """Run the bundle's sampler from given states."""
    settings = sampler_settings(locals())
    _limit(cpus, memory_limit)
    from .runtime.command import DrawOptions

    _report(
        DrawOptions(
            bundle=bundle,
            out=out,
            seed=seed,
            first=first,
            settings=settings,
            cond=conditions_of(cond),
            start=array_of(start),
            backend=backend,
            precision=precision,
            threads=threads,
            exact=exact,
            fuse=fuse,
            keep=array_or_none(keep),
            diverged=diverged.value,
            energy_range=None if energy_range is None else numbers_of("--energy-range", energy_range),  # type: ignore[arg-type]
            deadline_ms=deadline_ms,
            max_batch=max_batch,
            checkpoint=checkpoint,
            every=every,
            states=states,
        ),
        as_json,
    )


@_run.command()
def score(
    bundle: BundleArgument,
    x: Annotated[Path, typer.Argument(help="FILE.npy [B, *S].", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="FILE.npz to write energy and grad to.")] = None,
    cond: CondFiles = None,
    backend: Backend = None,
    precision: PrecisionName = None,
    threads: Threads = None,
    as_json: JsonOption = False,
) -> None:
    """Print the energy of each sample; lower is more likely."""
    from .runtime import load
    from .runtime.arguments import check_writable
    from .runtime.replaced_file import replacing

    if out is not None:
        check_writable("--out", out)
    with load(bundle, backend=backend, precision=precision, threads=threads) as ebm:
        energy, grad = ebm.score(array_of(x), cond=conditions_of(cond))
    if out is not None:
        with replacing(out) as file:  # a name alone would get the ending .npz, whatever it has
            np.savez(file, energy=energy, grad=grad)
    if as_json:
        print_json({"energy": energy.tolist()})
        return
    for value in energy:
        print(f"{value:.6g}")


def _device_info(as_json: bool) -> None:
    from .runtime.backends import BACKENDS, available
    from .runtime.device import describe_device, toolchain
    from .runtime.measured import fingerprint

    device, versions = describe_device(), toolchain()
    rows = []
    for backend in BACKENDS:
        missing = available(backend)
        rows.append({"backend": backend, "usable": "yes" if missing is None else "no", "note": missing or ""})
    if as_json:
        print_json({"device": device, "toolchain": versions, "fingerprint": fingerprint(), "backends": rows})
        return
    table("this device", [{"": name, "found": value} for name, value in device.items()])
    table("backends", rows)
    print(f"versions: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    print(f"fingerprint: {fingerprint()}")


def _limit(cpus: str | None, memory_limit: str | None) -> None:
    """Sets what the process may use, before a library starts threads."""
    from .runtime.limits import limit_memory, use_cpus

    if cpus is not None:
        use_cpus(cpus)
    if memory_limit is not None:
        limit_memory(memory_limit)


@_run.command()
def bench(
    bundle: BundleArgument,
    batch: Annotated[
        list[int] | None, typer.Option(help="Batch size; repeat for several. 1 and 8 if left out.", min=1)
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            help="CPU threads of the engine; repeat for several. The library's own, 1 and half of the cores if left out.",
            min=1,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Time for each engine and batch, and for each of --threads.", min=0.05)
    ] = 0.5,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep/--no-keep", help="Keep the result for this device, for load and the other commands to choose by."
        ),
    ] = True,
    cpus: Cpus = None,
    memory_limit: MemoryLimit = None,
    as_json: JsonOption = False,
) -> None:
    """Time a step of every engine that runs on this device: backends, precisions, batch sizes, threads, fused steps.

    The result is kept in the user's cache folder; from then on `load`, sample, refine and score take the fastest backend, number of
    threads and fused steps for fp32, or for the precision that they are asked for.
    """
    _limit(cpus, memory_limit)
    from .runtime.bench import numbers_of_threads, time_bundle
    from .runtime.bundle import Bundle
    from .runtime.measured import keep_measurements
    from .runtime.runnable import check_runnable

    check_runnable(Bundle(bundle))
    with progress() as tell:
        counts = threads or numbers_of_threads()
        share = seconds if threads else seconds / len(counts)
        rows = time_bundle(bundle, batches=batch or [1, 8], threads=counts, seconds=share, progress=tell)
    kept = keep_measurements(Bundle(bundle), rows) if keep else None
    if as_json:
        print_json(rows)
    else:
        table(str(bundle), [{**row, "threads": row["threads"] or "-", "fused": row["fused"] or "-"} for row in rows])
    if kept is not None:
        LOG.print(f"kept for this device: {kept}", markup=False, soft_wrap=True)
    elif keep:
        LOG.print(
            "not kept for this device: there is no cache folder that can be written to; set XDG_CACHE_HOME to one",
            soft_wrap=True,
        )


def compare_command(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...",
            help="Folders that ebm-export wrote; the first holds the reference.",
            show_default=False,
        ),
    ],
    precision: Annotated[
        list[str] | None,
        typer.Option(help="As ebm-run info lists them, or by steps: int8:0-200,bf16:200-; repeat; all if left out."),
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Repeat for several; all if left out.")] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE.onnx, a graph quantized elsewhere, with grad_scale or without; NAME=openvino:FILE.onnx; NAME=FILE.xml."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and the samples.")] = Path("report"),
    chains: Annotated[
        int | None, typer.Option(help="Chains of each engine; follows from --smallest-difference if left out.", min=1)
    ] = None,
    smallest_difference: Annotated[
        float, typer.Option(help="Shift that should be seen, in standard deviations of the energy.")
    ] = 0.1,
    gate: Annotated[float, typer.Option(help="Largest ratio to the seed noise floor that passes.")] = 1.25,
    require_pass: Annotated[
        bool, typer.Option("--require-pass", help="Exit code 6 unless every candidate passes.")
    ] = False,
    features: Annotated[
        str, typer.Option(help="What samples are compared by: pixels, model, or FILE.onnx from x to features.")
    ] = "pixels",
    classes: Classes = None,
    data: Annotated[
        Path | None, typer.Option(help="FILE.npy [M, *S], real data; with --ood for the AUROC, and for --likelihood.")
    ] = None,
    ood: Annotated[Path | None, typer.Option(help="FILE.npy [M, *S], other data.")] = None,
    likelihood: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Bounds of the log-likelihood, in nats, of each engine's samples, and of --data, under FP32's model: annealed "
            "importance sampling over K temperatures, forth and back. 200 is a good start; more narrow the bounds. Takes about 900 K "
            "evaluations of FP32, as 1800 chains of K/2 steps do, and one condition, where the model takes any. Judges nothing.",
            min=2,
        ),
    ] = None,
    cond: CondFiles = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch to time; repeat; 1 and 8 if left out.", min=1)] = None,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: JsonOption = False,
) -> None:
    """Put engines side by side: how well they draw, how fast, at what size and energy. Needs ebm-export[calibration].

    ebm-compare model.ebm

    compares every engine in the bundle with its FP32 engine. The samples decide: an engine passes the gate when its
    samples, drawn with another seed, are as close to FP32's as FP32's own are from one seed to the next. All engines
    draw with the bundle's own sampler settings. Other people's engines, and other models with the same x:

    ebm-compare model.ebm --precision int8 --candidate nncf=openvino:quantized.onnx --out report

    ebm-compare old.ebm new.ebm

    How many chains that takes follows from --smallest-difference: 1800 for 0.1, 450 for 0.2; with --chains 200 or so for a
    first look. Samples are kept in the folder that is written, under a name made of all that decides them, so a comparison
    that was stopped goes on where it was when it is started again. Open report.html in any browser; it needs no network.
    """
    from .calibration.command import run_compare
    from .calibration.compare_options import CompareOptions

    options = CompareOptions(
        bundles=bundles,
        backends=backend or [],
        precisions=precision or [],
        candidates=candidate or [],
        gate=gate,
        smallest_difference=smallest_difference,
        chains=chains,
        features=features,
        classes=classes,
        data=None if data is None else array_of(data),
        ood=None if ood is None else array_of(ood),
        likelihood=likelihood,
        cond=conditions_of(cond),
        seed=seed,
        threads=threads,
        batches=batch or [1, 8],
    )
    with progress() as tell:
        report, rows = run_compare(options, out, tell)
    if as_json:
        print_json(report)
    else:
        table(str(out / "report.html"), rows)
        LOG.print(report["power"], markup=False, soft_wrap=True)  # or why the table has no energy per sample
        for entry in report["not_run"]:
            LOG.print(f"not run: {entry['name']}: {entry['reason']}", markup=False, soft_wrap=True)
        for line in report["failures"]:
            print(line)
    if require_pass and report["failures"]:
        raise QualityGateError(
            f"{len(report['failures'])} of {len(rows) - 1} candidates fail: {'; '.join(report['failures'])}"
        )


def _report(options: DrawOptions, as_json: bool) -> None:
    """Draws, and prints what came of it."""
    from .runtime.command import run_draw

    with progress() as tell:
        drawn = run_draw(options, tell)
    result = drawn.result
    if as_json:
        print_json(result)
        return
    LOG.print(result["engine"], markup=False, soft_wrap=True)
    count, *shape = result["shape"]
    print(f"{result['out']}: {count} samples {shape}, energy {result['energy_mean']:.4g} on average")
    if "steps" in result:
        print(f"{result['steps']} of {drawn.steps} steps")
        lost = result["without_energy"]
        for chains, said in (
            (set(result["diverged"]) - set(lost), "diverged, and are what they were at their lowest energy before"),
            (lost, "never had a finite energy, and are what they began as"),
        ):
            if chains:
                LOG.print(f"{len(chains)} of {count} {said}", style="yellow", markup=False, soft_wrap=True)
    if "acceptance" in result:
        blocks = f", and {result['block_acceptance']:.3f} of blocks" if "block_acceptance" in result else ""
        print(f"temperature {result['temperature']:.4g}; accepted {result['acceptance']:.3f} of steps{blocks}")


def _main(app: Callable[[], None]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text in this encoding
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except MemoryError:
        # With what is left, and nothing that would have to be imported.
        os.write(2, b"error: out of memory; give a larger --memory-limit, or a smaller -n, --batch or --max-batch\n")
        os._exit(EbmExportError.exit_code)
    except EbmExportError as error:
        said = as_typed(str(error), sys.argv[1:]) if isinstance(error, UsageError) else str(error)
        LOG.print(f"error: {said}", style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written to
        said = error.strerror or str(error)
        LOG.print(
            f"error: {said if error.filename is None else f'{error.filename}: {said}'}",
            style="red",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(EbmExportError.exit_code)


def ebm_export() -> None:
    """The whole of ebm-export; `entry` begins it, as the others."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None)
    app.command(name="ebm-export")(export_command)
    _main(app)


def ebm_compare() -> None:
    """The whole of ebm-compare."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None)
    app.command(name="ebm-compare")(compare_command)
    _main(app)


def ebm_run() -> None:
    """The whole of ebm-run."""
    _main(_run)
