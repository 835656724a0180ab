"""ebm-export: from a model to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import (
    Bounds,
    Classes,
    EnergyForm,
    GradClip,
    GradClipMode,
    InitOption,
    JsonOption,
    Noise,
    OrderOption,
    Precision,
    Steps,
    StepSize,
    Target,
    Temperature,
)
from ..terminal import LOG, print_json, progress, table
from .option_texts import chosen, sampler_settings

__all__ = ["export_command"]


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
            "judges int8 and mixed, and fp16 and bf16 beside them or where drawing their first samples takes a minute at most in all; given, "
            "whatever time that takes. It judges the onnx file behind a TensorRT plan too.",
        ),
    ] = None,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Write int8, fp16 and bf16 without judging their samples.")
    ] = False,
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
            "end of the calibration; half of it at most goes into measuring each layer. A trial that runs is finished, which may take "
            "minutes.",
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
    from ..exporter.closing_table import how_judged
    from ..exporter.command import run_export
    from ..exporter.export_options import ExportOptions

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
        sampler_settings={},
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
        report, rows = run_export(options.with_files(config), tell)
    judged = how_judged(report.gates.values())
    if as_json:
        found = {"path": str(report.path), "sampler": report.sampler.to_dict(), "artifacts": rows}
        print_json(found | ({"judged": judged} if judged else {}))
    else:
        table(f"{report.path}  ({report.seconds:.0f} s)", rows, "note", judged)
    if report.failure is not None:  # after what was written all the same
        raise report.failure
    if report.found_sampler:
        LOG.print(
            f"[yellow]no sampler settings were given: step size {report.sampler.step_size:g} was found, good enough to "
            "verify with; give the model's own (--steps, --step-size, --noise, --init, ..) before sampling",
            soft_wrap=True,
        )
