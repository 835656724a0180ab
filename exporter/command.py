"""What `ebm-export` does with its options."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import ChainMap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ..runtime.array_file import read_given_array
from ..runtime.batch_range import parse_batch_range
from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError
from ..runtime.usable_settings import check_temperature
from ..runtime.verify import is_judged, tolerance
from .targets import Progress

if TYPE_CHECKING:
    from .energy import EnergyMode

__all__ = ["ExportOptions", "no_faster", "run_export"]


_GATE, _SMALLEST_DIFFERENCE = 1.25, 0.15
_LOOKS_WRONG = 0.05
"""Relative error of a gradient from which an INT8 engine gets a word about it: what FP16 and BF16 may be off by."""
_LOG = logging.getLogger("ebm_export")


@dataclass(frozen=True)
class ExportOptions:
    """The options of the command; see its --help.

    Attributes:
        settings: the sampler settings among the flags.
        file_settings: those of the file of options, which the others go over.
    """

    model: Path
    targets: list[str]
    precisions: list[str]
    out: Path | None
    factory: str | None
    model_args: list[str]
    shape: str | None
    cond: list[str]
    wrt: str | None
    energy: EnergyMode | None
    state_key: str | None
    strip_prefix: str | None
    trust_pickle: bool
    sampler: Path | None
    settings: dict[str, Any]
    file_settings: dict[str, Any]
    calibration_data: Path | None
    batch: str
    verify: bool | None
    gate: float | None
    no_gate: bool
    features: str | None
    classes: Path | None
    smallest_difference: float | None
    search_seconds: float | None
    weight_bits: int | None
    ranges: str | None
    no_split: bool
    fuse: int | None
    force: bool

    def with_file(self, path: Path | None) -> ExportOptions:
        """Fills in what was not given from a TOML file: option names as keys, sampler settings under [sampler].

        Raises:
            UsageError: the file cannot be read, has a key that is no option, or a value of another type than the option's.
        """
        if path is None:
            return self
        found = {key.replace("-", "_"): value for key, value in _read(path).items()}
        # `sampler` at the top is the table or the file of the settings; which sampler it is stands in there.
        plain = [name for name in SamplerConfig.field_names() if name != "sampler"]
        settings = {name: found.pop(name) for name in plain if name in found}
        settings |= _settings(path, found.pop("sampler", {}))
        updates: dict[str, Any] = {}
        for key, value in found.items():
            if key not in _OPTIONS:
                raise UsageError(f"{path}: {key!r} is no option of ebm-export")
            name, kind = _OPTIONS[key]
            read = kind.read(value)
            if read is None:
                raise UsageError(f"{path}: {key}: expected {kind.expected}, got {value!r}")
            if not self._given(name):
                updates[name] = read
        return replace(self, file_settings=settings, **updates)

    def _given(self, name: str) -> bool:
        """Whether an option stood on the command line."""
        if name in ("gate", "no_gate"):  # one choice with two names
            return self.no_gate or self.gate is not None
        value = getattr(self, name)
        return value is not None and value != "" and value != [] and (name not in _SWITCHES or value)


@dataclass(frozen=True)
class _Kind:
    """What an option's value may be in a file.

    Attributes:
        expected: in words.
        read: gives the value as `ExportOptions` has it; None where it is another kind of value.
    """

    expected: str
    read: Callable[[Any], Any]


def _texts(value: Any) -> list[str] | None:
    entries = value if isinstance(value, list) else [value]
    return entries if all(isinstance(entry, str) for entry in entries) else None


def _sizes(value: Any) -> str | None:
    if isinstance(value, list) and all(_is_whole(size) for size in value):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else None


def _at_least(least: float) -> _Kind:
    def read(value: Any) -> float | None:
        return value if (_is_whole(value) or isinstance(value, float)) and least <= value < math.inf else None

    return _Kind(f"a number of at least {least:g}", read)


def _above(bound: float) -> _Kind:
    kind = _at_least(bound)
    return _Kind(f"a number above {bound:g}", lambda value: None if value == bound else kind.read(value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_TEXT = _Kind("text", lambda value: value if isinstance(value, str) else None)
_TEXTS = _Kind("text or a list of texts", _texts)
_FILE = _Kind("the name of a file, as text", lambda value: Path(value) if isinstance(value, str) else None)
_SIZES = _Kind('sizes of one sample, such as "1,28,28" or [1, 28, 28]', _sizes)
_WHOLE = _Kind("a whole number", lambda value: value if _is_whole(value) else None)
_SWITCH = _Kind("true or false", lambda value: value if isinstance(value, bool) else None)

_OPTIONS = {
    "target": ("targets", _TEXTS),
    "precision": ("precisions", _TEXTS),
    "out": ("out", _FILE),
    "model": ("factory", _TEXT),
    "model_arg": ("model_args", _Kind("NAME=VALUE as text, or a list of such texts", _texts)),
    "shape": ("shape", _SIZES),
    "cond": ("cond", _TEXTS),
    "wrt": ("wrt", _TEXT),
    "energy": ("energy", _TEXT),
    "state_key": ("state_key", _TEXT),
    "strip_prefix": ("strip_prefix", _TEXT),
    "trust_pickle": ("trust_pickle", _SWITCH),
    "calibration_data": ("calibration_data", _FILE),
    "batch": ("batch", _Kind('text such as "1:8:64"', _TEXT.read)),
    "verify": ("verify", _SWITCH),
    "gate": ("gate", _above(1)),
    "no_gate": ("no_gate", _SWITCH),
    "features": ("features", _TEXT),
    "classes": ("classes", _FILE),
    "smallest_difference": ("smallest_difference", _at_least(0.02)),
    "search_seconds": ("search_seconds", _at_least(0)),
    "weight_bits": (
        "weight_bits",
        _Kind("7 or 8", lambda value: value if _is_whole(value) and value in (7, 8) else None),
    ),
    "ranges": ("ranges", _TEXT),
    "no_split": ("no_split", _SWITCH),
    "fuse": ("fuse", _WHOLE),
    "force": ("force", _SWITCH),
}
"""For each key of a file the field of `ExportOptions` and what it may be."""

_SWITCHES = ("trust_pickle", "no_gate", "no_split", "force")
"""Flags that can only be turned on: false stands for "not given"."""


def _settings(path: Path, value: Any) -> dict[str, Any]:
    """The sampler settings of a file, or of the file that it names."""
    if isinstance(value, str):
        return _read(Path(value))
    if not isinstance(value, dict):
        raise UsageError(f"{path}: sampler: expected a table of settings or the name of a file, got {value!r}")
    return value


def run_export(options: ExportOptions, progress: Progress) -> tuple[Any, list[dict[str, Any]]]:
    """Loads, exports and times.

    Returns:
        The `ExportReport` and the rows of the closing table: file, precision, size of the score graph and its prologue, what
        `--fuse` added, worst error, time of one step, and the manifest's note.
    """
    from .export import export_energy
    from .factory import parse_model_args
    from .gating import gating_for
    from .input_spec import parse_cond, parse_shape
    from .load import load_model

    if options.gate is not None and options.no_gate:
        raise UsageError("--gate and --no-gate: leave one of them out")
    batch = parse_batch_range(options.batch or "1:8:64")
    precisions = options.precisions or ["fp32"]
    out = options.out or options.model.parent / f"{options.model.stem}.ebm"
    gating = gating_for(
        precisions,
        None if options.no_gate else _GATE if options.gate is None else options.gate,
        smallest_difference=_SMALLEST_DIFFERENCE
        if options.smallest_difference is None
        else options.smallest_difference,
        out=out,
        seconds=options.search_seconds,
        all_low=options.gate is not None,
        features=options.features or "pixels",
        classes=options.classes,
    )
    progress(f"loading {options.model.name or options.model}", 0, 0)
    energy = load_model(
        options.model,
        factory=options.factory,
        factory_args=parse_model_args(options.model_args),
        shape=parse_shape(options.shape) if options.shape else None,
        cond=parse_cond(options.cond) if options.cond else None,
        wrt=options.wrt,
        energy=options.energy,
        state_key=options.state_key,
        strip_prefix=options.strip_prefix,
        trust_pickle=options.trust_pickle,
    )
    energy.sampler = _sampler(energy.sampler, options)
    report = export_energy(
        energy,
        out=out,
        targets=options.targets or ["onnxruntime"],
        precisions=precisions,
        batch=batch,
        gating=gating,
        data=None
        if options.calibration_data is None
        else read_given_array(options.calibration_data, "--calibration-data"),
        weight_bits=options.weight_bits,
        ranges=options.ranges,
        splits=not options.no_split,
        fuse=options.fuse,
        verify=options.verify is not False,
        force=options.force,
        progress=progress,
    )
    return report, _rows(report, options, batch[1], progress)


def _sampler(given: SamplerConfig | None, options: ExportOptions) -> SamplerConfig | None:
    """The settings the archive carries, those of files over them, and the flags over both; None where nobody said any."""
    settings = {} if given is None else given.to_dict()
    file = {} if options.sampler is None else _read(options.sampler)
    for own in (options.file_settings, file, options.settings):
        settings.update(own)
    if not settings:
        return None
    made = SamplerConfig.from_dict(settings)
    # A file may say both, as one that was written by `to_dict` does; one that says a temperature alone means it.
    alone = [own for own in (options.file_settings, file) if "temperature" in own and "noise" not in own]
    check_temperature(made, ChainMap(dict(options.settings), *alone))
    return made


def _rows(report: Any, options: ExportOptions, batch: int, progress: Progress) -> list[dict[str, Any]]:
    from ..runtime.bench import time_bundle
    from .targets.score import engine_files_of, files_of

    timed_rows = time_bundle(report.path, batches=[batch], fused=False, progress=progress)
    for said in no_faster(timed_rows):
        _LOG.warning(said)
    times = {row["file"]: row for row in timed_rows}
    found = {verification.path: verification for verification in report.verifications}
    precisions = {artifact["precision"] for artifact in report.artifacts}
    rows = []
    for artifact in report.artifacts:
        # What --fuse adds holds the steps' graph many times over: beside the engine's size, not in it.
        engine, whole = (_size(report.path, files(artifact)) for files in (engine_files_of, files_of))
        added = {} if options.fuse is None else {"added by --fuse": f"{whole - engine:.2f} MiB"}
        verification = found.get(artifact["path"])
        ran = verification is not None and not verification.reason
        stages = verification.stages if verification is not None and ran else []
        worst = max((stage.relative_error for stage in stages), default=None)
        timed = times.get(artifact["path"])
        gate = report.gates.get(artifact["path"])
        rows.append(
            {
                "file": artifact["path"],
                "precision": artifact["precision"],
                "size": f"{engine:.2f} MiB",
                **added,
                "status": artifact["status"],
                "worst error": None if worst is None else f"{worst:.1e}",
                "limit": None if worst is None else _limit(artifact["precision"], gate is not None),
                "gate": _gate_said(artifact, gate),
                f"ms per step (batch {batch})": None if timed is None else timed["median ms"],
                "note": "; ".join(
                    filter(
                        None,
                        (
                            artifact["note"],
                            "" if worst is None else _why_so_far_off(artifact["precision"], worst, gate is not None),
                            _how_to_judge(artifact, precisions) if gate is None and not options.no_gate else "",
                        ),
                    )
                ),
            }
        )
    return rows


def _gate_said(artifact: Any, gate: Any) -> str | None:
    """The verdict; None where there is none to have: FP32 is what others are compared with, and a plan is judged as its ONNX file."""
    if gate is not None:
        return f"{'passed' if gate.passed else 'failed'}, {_worst(gate):.2f}"
    return None if artifact["precision"] == "fp32" or artifact["target"] == "tensorrt" else "not judged"


def _how_to_judge(artifact: Any, precisions: Collection[str]) -> str:
    """What to do about an engine that no gate judged; empty where its samples are not judged by themselves.

    Args:
        artifact: its entry.
        precisions: of the bundle.
    """
    if _gate_said(artifact, None) is None:
        return ""
    if "mixed" in precisions:  # the gate is on, and this one came with a schedule
        return f"--precision {artifact['precision']} has the export judge them too, and ebm-compare judges the bundle"
    return (
        "its samples were not judged: --gate 1.25 has the export judge fp16 and bf16 too, which takes as long as drawing some thousand "
        "samples, and ebm-compare judges the bundle"
    )


def _limit(precision: str, gated: bool) -> str:
    """What the worst error of an engine is held to."""
    if is_judged(precision):
        return f"{tolerance(precision).relative_error:.0e}"
    return "the gate" if gated else "none"


def _why_so_far_off(precision: str, worst: float, gated: bool) -> str:
    """What to make of a worst error that looks like a failure, of an engine that is kept; empty where it does not."""
    cause = "rounding moves small gradients most, and a relu's gradient jumps where a sum is near zero"
    if is_judged(precision):
        if worst <= tolerance(precision).relative_error:
            return ""
        return f"the worst error is above the limit at a state where PyTorch's own, by rounding, is half as large or more, which passes ({cause})"
    if worst <= _LOOKS_WRONG:
        return ""
    decides = "do, and passed the gate" if gated else "would, and no gate judged them"
    return f"the worst error is that of one state, the farthest off, and decides nothing in {precision}: its samples {decides} ({cause})"


def _size(folder: Path, names: Sequence[str]) -> float:
    """MiB of these files."""
    return sum((folder / name).stat().st_size for name in names) / 2**20


def no_faster(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Says which engines of low precision are not faster than float32 of the same backend, as on a CPU without instructions for them.

    Args:
        rows: as `time_bundle` returns them, of one batch size.
    """
    exact = {row["backend"]: row["median ms"] for row in rows if row["precision"] == "fp32"}
    return [
        f"{row['file']} is no faster than fp32 on this machine: {row['median ms']:.3g} against {exact[row['backend']]:.3g} ms a step at a "
        f"batch of {row['batch']}"
        for row in rows
        if row["precision"] != "fp32" and row["median ms"] >= exact.get(row["backend"], math.inf)
    ]


def _worst(gate: Any) -> float:
    """The largest ratio to the seed noise floor."""
    return max((verdict.ratio for verdict in gate.verdicts if verdict.limit == gate.gate), default=0.0)


def _read(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as a dictionary."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        named = str(path) in get_args(get_type_hints(SamplerConfig)["sampler"])
        hint = f'; settings come in a file: for this sampler, one with the line `sampler = "{path}"`' if named else ""
        raise UsageError(f"{path} cannot be read: {error.strerror}{hint}") from error
    except ValueError as error:
        raise UsageError(f"{path} is neither TOML nor JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected settings by name, got {type(found).__name__}")
    return found
