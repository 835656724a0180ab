"""The options that commands share, and what becomes of their texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .runtime.array_file import read_given_array
from .runtime.buffer_turn import BufferFile
from .runtime.composed_bundles import Composition
from .runtime.config import SamplerConfig
from .runtime.errors import UsageError
from .runtime.limits import limit_memory, use_cpus

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
    "array_of",
    "array_or_none",
    "as_typed",
    "buffer_of",
    "chosen",
    "conditions_of",
    "composition_of",
    "limit_process",
    "numbers_of",
    "sampler_settings",
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
Noise = Annotated[
    str | None, typer.Option(help="Noise per step (sd); none, the default, is sqrt(2 * step size * temperature).")
]
Temperature = Annotated[str | None, typer.Option(help="Temperature; 'a,b,..' is a schedule.")]
GradClip = Annotated[float | None, typer.Option(help="Limit of the gradient before it is multiplied by the step.")]
GradClipMode = Annotated[
    ClipMode | None,
    typer.Option(help="What --grad-clip limits: the size of each number, or the length of a sample's gradient."),
]
Bounds = Annotated[str | None, typer.Option(help="LOW,HIGH that every number of x stays in.")]
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
    int | None, typer.Option("--warmup", help="First steps that adapt step sizes; a quarter if left out.", min=0)
]
TargetAccept = Annotated[float | None, typer.Option(help="Acceptance that step sizes are adapted to.")]
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
    float | None, typer.Option("--deadline-ms", help="Write the best states that are found in this time; above 0.")
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
        "ways and take the faster one. The samples are the same.",
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


def sampler_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler settings among the options of a command, as SamplerConfig takes them; those not given are left out."""
    given = {name: options[name] for name in SamplerConfig.field_names() if options.get(name) is not None}
    for name in ("step_size", "noise", "temperature", "bounds", "ladder"):
        if name in given:
            given[name] = numbers_of(f"--{name.replace('_', '-')}", given[name])
    return {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}


def numbers_of(option: str, text: str) -> float | tuple[float, ...] | None:
    """Reads a number, or numbers with commas between them; None stands for the noise of the temperature."""
    if option == "--noise" and text == "none":  # what the temperature says, in place of the bundle's own noise
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option}: expected a number, or numbers with commas between them, got {text!r}") from error
    return numbers[0] if len(numbers) == 1 else numbers


def limit_process(cpus: str | None, memory_limit: str | None) -> None:
    """Sets what the process may use; to be called before a library starts threads."""
    if cpus is not None:
        use_cpus(cpus)
    if memory_limit is not None:
        limit_memory(memory_limit)


def as_typed(message: str, words: Sequence[str]) -> str:
    """Returns an error's message with the option in place of the Python argument that it begins with, where that option was typed.

    Args:
        message: what the library says, which may begin with an argument's name and a colon.
        words: what was typed after the command's name.
    """
    name, colon, rest = message.partition(":")
    option = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
    if not colon or not re.fullmatch(r"[a-z]\w*", name):
        return message
    # An input of the model may be called like an option, and the message is then as well one about the input.
    if any(word.removeprefix("--cond=").startswith(f"{name}=") for word in words):
        return message
    typed = any(word.partition("=")[0] == option or (len(name) == 1 and word.startswith(option)) for word in words)
    return f"{option}:{rest}" if typed else message


def chosen(option: str, texts: list[str] | None, choices: type[Enum]) -> list[str]:
    """Refuses what is none of the choices of an option that is repeated for several."""
    names = [choice.value for choice in choices]
    for text in texts or []:
        if text not in names:
            parts = [part.strip() for part in text.split(",")]
            several = len(parts) > 1 and set(parts) <= set(names)
            hint = f"; for several: {' '.join(f'{option} {part}' for part in parts)}" if several else ""
            raise UsageError(f"{option}: expected one of {', '.join(names)}, got {text!r}{hint}")
    return list(texts or [])


def array_of(path: Path) -> np.ndarray:
    """Reads FILE.npy."""
    return read_given_array(path)


def array_or_none(path: Path | None) -> np.ndarray | None:
    """Reads FILE.npy where one was given."""
    return None if path is None else array_of(path)


def conditions_of(texts: list[str] | None) -> dict[str, np.ndarray]:
    """Reads the arrays of NAME=FILE.npy, by name; of NAME=NUMBER a single row, as a label or a noise level is."""
    found = {}
    for text in texts or []:
        name, _, path = text.partition("=")
        if not path.strip():
            raise UsageError(f"--cond: expected NAME=FILE.npy or NAME=NUMBER, got {text!r}")
        is_file = Path(path).exists()
        number = None if is_file else _number(path)
        if number is None and re.fullmatch(r"[\d, ]+", path) and not is_file:  # as ebm-export takes it
            raise UsageError(f"--cond: a shape says nothing about values: expected {name}=FILE.npy, got {text!r}")
        if name in found:
            raise UsageError(f"--cond: {name!r} is given twice")
        if not is_file and "," in path and all(_number(entry) is not None for entry in path.split(",")):
            raise UsageError(
                f"--cond: several numbers are given in a file, {name}=FILE.npy, with a row of them for each sample or one for all: "
                f"numpy.save('{name}.npy', [[{path}]]) makes one of these; got {text!r}"
            )
        found[name] = array_of(Path(path)) if number is None else np.array([number])
    return found


def composition_of(texts: list[str] | None, weight: float | None, mixture: bool) -> Composition | None:
    """What --add, --weight and --mixture say; None where nothing is added."""
    if not texts:
        for flag, given in (("--weight", weight is not None), ("--mixture", mixture)):
            if given:
                raise UsageError(f"{flag}: says how bundles are composed; give --add BUNDLE as well")
        return None
    added = []
    for text in texts:
        path, equals, number = text.rpartition("=")
        if not equals or Path(text).exists():  # a file's name may have one in it
            added.append((Path(text), 1.0))
            continue
        found = _number(number)
        if found is None or not path:
            raise UsageError(f"--add: expected BUNDLE or BUNDLE=WEIGHT, the weight being a number, got {text!r}")
        added.append((Path(path), float(found)))
    return Composition(added, 1.0 if weight is None else weight, mixture)


def buffer_of(path: Path | None, share: float | None, capacity: int | None) -> BufferFile | None:
    """What --buffer, --share and --capacity say; None where there is no buffer."""
    given = {name: value for name, value in (("share", share), ("capacity", capacity)) if value is not None}
    if path is None:
        if given:
            raise UsageError(f"--{next(iter(given))}: says how --buffer FILE is used; give that as well")
        return None
    return BufferFile(path, **given)  # type: ignore[arg-type]


def _number(text: str) -> int | float | None:
    """What a text says where it is a finite number, whole where it has neither point nor exponent."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
