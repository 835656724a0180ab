"""The options that commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Added",
    "CheckpointFile",
    "CheckpointSeconds",
    "EnergyRange",
    "Every",
    "MaxBatch",
    "StatesFile",
    "Anneal",
    "Backend",
    "Block",
    "Bounds",
    "BoundsMode",
    "BundleArgument",
    "Classes",
    "ClipMode",
    "CondFiles",
    "Cpus",
    "DeadlineMs",
    "Diverged",
    "Divergence",
    "EnergyForm",
    "Exact",
    "First",
    "Friction",
    "Fuse",
    "GradClip",
    "GradClipMode",
    "Init",
    "InitOption",
    "JsonOption",
    "Keep",
    "Ladder",
    "Leapfrog",
    "MemoryLimit",
    "Mixture",
    "Momentum",
    "Noise",
    "OodKind",
    "Order",
    "OrderOption",
    "Precision",
    "PrecisionName",
    "Sampler",
    "Seed",
    "StepSize",
    "Steps",
    "Stream",
    "Target",
    "TargetAccept",
    "Temperature",
    "Threads",
    "WarmUp",
    "Weight",
]


class Target(str, Enum):
    """What the exporter writes."""

    onnx = "onnx"
    onnxruntime = "onnxruntime"
    openvino = "openvino"
    tensorrt = "tensorrt"


class Precision(str, Enum):
    """In what an engine computes."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    mixed = "mixed"


class EnergyForm(str, Enum):
    """How a model's output becomes an energy."""

    energy = "energy"
    negative = "negative"
    logsumexp = "logsumexp"


class ClipMode(str, Enum):
    """What of a gradient is limited."""

    value = "value"
    norm = "norm"


class Order(str, Enum):
    """Which half of a step comes first."""

    drift_noise = "drift-noise"
    noise_drift = "noise-drift"


class Init(str, Enum):
    """Where chains start."""

    normal = "normal"
    uniform = "uniform"
    data = "data"


class OodKind(str, Enum):
    """By what samples are told from those of the distribution."""

    energy = "energy"
    gradient = "gradient"
    typicality = "typicality"


class Divergence(str, Enum):
    """What happens to a chain that diverges."""

    stop = "stop"
    restart = "restart"
    drop = "drop"


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Steps = Annotated[int | None, typer.Option(help="Number of Langevin steps.", min=1)]
StepSize = Annotated[str | None, typer.Option(help="Step size; 'a,b,..' is a schedule over the steps.")]
Noise = Annotated[str | None, typer.Option(help="Noise per step (sd); 'none' is sqrt(2 * step size * temperature).")]
Temperature = Annotated[str | None, typer.Option(help="Temperature; 'a,b,..' is a schedule.")]
GradClip = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER", help="Limit of the gradient before it is multiplied by the step; 'none' is no limit."
    ),
]
GradClipMode = Annotated[
    ClipMode | None,
    typer.Option(help="What --grad-clip limits: the size of each number, or the length of a sample's gradient."),
]
Bounds = Annotated[str | None, typer.Option(help="LOW,HIGH that every number of x stays in; 'none' is no bounds.")]
InitOption = Annotated[Init | None, typer.Option(help="Where chains start: N(0, I), uniform over the bounds, or data.")]
OrderOption = Annotated[Order | None, typer.Option(help="Which comes first in a step.")]
BundleArgument = Annotated[Path, typer.Argument(help="The folder that ebm-export wrote.", show_default=False)]
Backend = Annotated[str | None, typer.Option(help="onnxruntime, openvino or tensorrt; chosen if left out.")]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        help="As ebm-run info lists them, or by steps: int8:0-200,bf16:200-256; fastest: what bench measured; fp32 if left out."
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="langevin, preconditioned, underdamped, mala, hmc, tempering or optimize; the bundle's if left out."
    ),
]
BoundsMode = Annotated[str | None, typer.Option(help="What happens at the bounds: project or reflect.")]
Anneal = Annotated[
    float | None, typer.Option(help="Factor of the first temperature; it falls to 1 by half of the steps.")
]
WarmUp = Annotated[
    int | None,
    typer.Option(
        "--warmup",
        help="First steps that adapt step sizes; if left out a quarter, or none where that is fewer than 5.",
        min=0,
    ),
]
TargetAccept = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="Acceptance that step sizes are adapted to; 'none' is the sampler's own."),
]
Leapfrog = Annotated[int | None, typer.Option(help="hmc: leapfrog steps in one step.", min=1)]
Friction = Annotated[float | None, typer.Option(help="underdamped: one over the time that velocities last.")]
Momentum = Annotated[float | None, typer.Option(help="optimize: share of the last move that is made again.")]
Ladder = Annotated[str | None, typer.Option(help="tempering: factors of the temperature, rising from 1: '1,2,4,8'.")]
Exact = Annotated[
    bool, typer.Option("--exact", help="Correct the chains of --precision, so that samples follow the FP32 energy.")
]
Keep = Annotated[
    Path | None, typer.Option(help="FILE.npy of bool, [n, *S] or [1, *S]: true where a number of x stays as it is.")
]
Diverged = Annotated[Divergence, typer.Option(help="What happens to a chain that diverges.")]
DeadlineMs = Annotated[
    float | None,
    typer.Option(
        "--deadline-ms",
        help="Write the best states that are found in this time, counted from after loading and compiling; above 0.",
    ),
]
EnergyRange = Annotated[
    str | None, typer.Option(help="LOW,HIGH: energies of a chain that is well; one outside has diverged.")
]
MaxBatch = Annotated[int | None, typer.Option(help="Most chains in one engine call.", min=1)]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        help="FILE that the run is saved to now and then. The same command goes on from there after a kill and ends with "
        "the same bits; the file is removed once the samples are written."
    ),
]
CheckpointSeconds = Annotated[
    float | None,
    typer.Option("--checkpoint-seconds", help="Seconds between two savings of --checkpoint; 10 if left out."),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        help="FILE.onnx from x to one number for each class: the likeliest is the mode that a sample is in. If left out, modes are "
        "clusters of the samples."
    ),
]
Every = Annotated[
    int | None, typer.Option(help="Write the states after every so many steps to --states as well.", min=1)
]
StatesFile = Annotated[
    Path | None,
    typer.Option(help="FILE.npy for --every, [steps // K, n, *S]; OUT with the ending .states.npy if left out."),
]
Stream = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Print the energies of the best states so far while they improve, and write these to --out, at most once in SECONDS; "
        "whoever reads has enough by closing the pipe, which is noticed at the next line.",
    ),
]
Block = Annotated[int | None, typer.Option(help="Steps for each FP32 evaluation, with --exact.", min=1)]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the engine.", min=1)]
Cpus = Annotated[
    str | None, typer.Option(metavar="LIST", help="Keep to these CPUs, such as 0-3,6; give --threads to match.")
]
MemoryLimit = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Fail rather than take more memory, such as 512M or 2G.")
]
Fuse = Annotated[
    bool | None,
    typer.Option(
        "--fuse/--no-fuse",
        help="Take several steps in one engine call, where the bundle was exported with --fuse. If left out, long runs time both "
        "ways and take the faster one. The samples are the same, up to rounding where the sampler clips by norm or the precision is low.",
    ),
]
Seed = Annotated[int, typer.Option(help="Same seed, same samples.")]
First = Annotated[
    int,
    typer.Option(
        help="Number of the first chain: -n 64 --first 64 draws the second half of -n 128, in another process.", min=0
    ),
]
CondFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--cond",
        help="NAME=FILE.npy, a conditioning input [B, ..] or [1, ..]; NAME=3 or NAME=0.2 is one of one number, the same for all.",
    ),
]

Added = Annotated[
    list[str] | None,
    typer.Option(
        "--add",
        metavar="BUNDLE[=WEIGHT]",
        help="Add WEIGHT times (1 if left out) this bundle's energy: samples are then likely for both bundles; a weight below 0 keeps them away "
        "from what is likely for this one. Repeat for several. --cond NAME=.. is for all that have the input, --cond 1:NAME=.. for the first --add alone.",
    ),
]
Weight = Annotated[
    float | None, typer.Option(help="Weight of BUNDLE's own energy, with --add; 1 if left out.", show_default=False)
]
Mixture = Annotated[
    bool,
    typer.Option(
        "--mixture",
        help="With --add: what is likely is so by one bundle or the other; weights are shares of their densities.",
    ),
]
