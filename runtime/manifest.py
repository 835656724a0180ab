"""What a bundle says about itself: the contents of manifest.json, checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from .config import SamplerConfig
from .errors import LoadError, UsageError
from .known_scales import HIGHEST_SCALE, LOWEST_SCALE, NOTHING_KNOWN, KnownScales

__all__ = [
    "CALIBRATED",
    "DTYPES",
    "NOT_COMPARED",
    "NOT_JUDGED",
    "SCHEMA_VERSION",
    "VERIFIED",
    "Artifact",
    "Manifest",
    "ModelSpec",
    "TensorSpec",
]

SCHEMA_VERSION = 1
VERIFIED = "verified"
"""Status of an artifact that was compared with PyTorch and agrees."""
NOT_JUDGED = "run, not judged"
"""Status of an INT8 or mixed artifact whose samples were not judged (--no-gate)."""
NOT_COMPARED = "judged, not compared"
"""Status of an artifact whose samples the gate let pass, where nothing was compared with PyTorch (--no-verify)."""
CALIBRATED = ("int8", "mixed")
"""Precisions whose ranges come from the bundle's own chains, and which are judged by their samples."""
DTYPES = ("float32", "int64", "bool")
"""Types that a score graph's inputs can have."""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input of the score graph.

    Attributes:
        name: its name in the graph.
        shape: without the batch dimension.
        dtype: one of `DTYPES`.
        parameter: its name in the user's model, where that is another one; calls take both.
        limits: (smallest, largest) number that the model takes, where that is less than `dtype` holds: its own type's, or the rows
            of a table.
        range: (smallest, largest) finite number that the export was given for it, where it is float32 and rows of it were given. Of the
            export, not of the model: inputs that differ in it alone are equal.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameter: str = ""
    limits: tuple[int, int] | None = None
    range: tuple[float, float] | None = dataclasses.field(default=None, compare=False)

    @property
    def called(self) -> str:
        """The name that a caller knows."""
        return self.parameter or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a caller may use: that in the user's model, and that in the graph."""
        return tuple(dict.fromkeys((self.called, self.name)))


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The energy that a bundle holds.

    Attributes:
        name: for people to read.
        x: the refined input; float32, and always called x in the graph.
        wrt: the refined input's name in the user's model.
        cond: the conditioning inputs.
        range: (smallest, largest) number of x on the verification trajectory, where known.
        energies: (lowest, highest) energy there, where known.
        scales: what is known of the gradient scales of its chains.
        widest: numbers of one sample's largest value among those that change from step to step in its score graph; 0 where it is not
            known, as in older bundles.
    """

    name: str
    x: TensorSpec
    wrt: str = "x"
    cond: tuple[TensorSpec, ...] = ()
    range: tuple[float, float] | None = None
    energies: tuple[float, float] | None = None
    scales: KnownScales = NOTHING_KNOWN
    widest: int = 0

    @property
    def cond_names(self) -> tuple[str, ...]:
        """All names that a caller may give the conditioning inputs by."""
        return tuple(name for spec in self.cond for name in spec.names)


@dataclasses.dataclass(frozen=True)
class Artifact:
    """One compiled or portable form of the score graph.

    Attributes:
        path: file name in the bundle.
        target: onnx, onnxruntime, openvino or tensorrt.
        precision: fp32, fp16, bf16 ...
        role: score, prologue or sampler.
        sha256: of the file.
        files: sha256 of each further file that belongs to it, by name.
        toolchain: versions of what wrote it.
        options: what the backend must set when it loads the file.
        status: "verified", "built, not run", "run, not judged" for INT8 without the gate, or "judged, not compared" for what the gate
            let pass where nothing was compared with PyTorch.
        note: for people to read.
        schedule: precisions over the steps that it is run with unless one is asked for (see `precision_schedule.py`), such
            as "mixed:0-50,fp32:50-"; "" where it runs all steps.
        prologue: path of the artifact that makes the features which this one takes in place of conditioning inputs; "" where
            it takes these themselves.
        reads: of a prologue and of what takes its features, the names of their conditioning inputs.
        shared: of what takes features, the names of those that may come as one row for all samples.
        sampler: path of the artifact that takes several of its steps in one call; "" where there is none.
        steps: of such an artifact, how many; 0 where it is a whole chain with noise of its own, for other programs.
        settings: of a sampler, the settings that it was made with.
        layers: of a TensorRT plan, but for a sampler's: int8, fp16, bf16 or fp32 by the name of each convolution and matrix product
            of its graph, as it was compiled; of others, and where the library did not tell, nothing.
        energy_rounding: of INT8 and mixed, the standard deviation of its energies' errors among states that are one step of the bundle's
            chain apart; None where it is not known, as in older bundles.
    """

    path: str
    target: str
    precision: str
    role: str
    sha256: str
    files: Mapping[str, str]
    toolchain: Mapping[str, Any]
    options: Mapping[str, Any]
    status: str
    note: str
    schedule: str = ""
    prologue: str = ""
    reads: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    sampler: str = ""
    steps: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    energy_rounding: float | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of manifest.json.

    Attributes:
        model: what the energy takes.
        sampler: the settings it is sampled with unless told otherwise.
        artifacts: the engines' files.
        files: sha256 of the other files of the bundle (golden.npz, data.npy ..), by name.
        verification: the comparisons with PyTorch, as they were written.
        created_with: versions of what wrote the bundle.
    """

    model: ModelSpec
    sampler: SamplerConfig
    artifacts: tuple[Artifact, ...]
    files: Mapping[str, str]
    verification: tuple[Mapping[str, Any], ...]
    created_with: Mapping[str, str]

    @classmethod
    def from_dict(cls, entries: object, where: str) -> Manifest:
        """Checks and reads a manifest.

        Args:
            entries: what the JSON file holds.
            where: the file, for error messages.

        Raises:
            LoadError: an entry is missing, of another type, or written by a newer version.
        """
        top = _Entries(entries, where)
        version = top.take("schema_version", int)
        if version > SCHEMA_VERSION:
            raise LoadError(
                f"{where}: the bundle has schema_version {version} and this version of ebm-export reads up to "
                f"{SCHEMA_VERSION}: upgrade ebm-export, or export the model again with this version"
            )
        try:
            sampler = SamplerConfig.from_dict(top.take("sampler", dict, {}))
        except UsageError as error:
            raise LoadError(f"{where}: sampler: {error}") from error
        model = _model(top.inner("model"))
        return cls(
            model=model,
            sampler=sampler,
            artifacts=tuple(_artifact(entry, model) for entry in top.each("artifacts")),
            files=top.digests("files"),
            verification=tuple(top.take("verification", list, [])),
            created_with=top.take("created_with", dict, {}),
        )


_MOST_NUMBERS = 2**31
"""Numbers of one sample, 8 GiB; a manifest that says more was damaged."""


class _Entries:
    """A JSON object that knows where it stands, so that errors can say so."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise LoadError(f"{where}: expected an object, got {type(values).__name__}")
        self.where = where
        self._values = values

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns an entry of the given type; without a default (None) it must be there."""
        value = self._values.get(key, default)
        if value is None:
            raise LoadError(f"{self.where}: the entry {key!r} is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise LoadError(f"{self.where}: {key}: expected {kind.__name__}, got {value!r}")
        return value

    def scale(self, key: str, default: float) -> float:
        """A number that can be divided by."""
        value = float(self.take(key, float, default))
        if not LOWEST_SCALE <= value <= HIGHEST_SCALE:
            raise LoadError(
                f"{self.where}: {key}: expected a number above 0, within what float32 can divide by, got {value!r}"
            )
        return value

    def size(self, key: str) -> float | None:
        """A number of at least 0; None where there is none, or null, as `ebm-run build` writes it."""
        if self._values.get(key) is None:
            return None
        value = float(self.take(key, float))
        if not 0 <= value < math.inf:
            raise LoadError(f"{self.where}: {key}: expected a number of at least 0, got {value!r}")
        return value

    def inner(self, key: str) -> _Entries:
        return _Entries(self.take(key, dict), f"{self.where}: {key}")

    def digests(self, key: str) -> dict[str, str]:
        """Files and their sha256."""
        found = self.take(key, dict, {})
        if not all(isinstance(digest, str) for digest in found.values()):
            raise LoadError(f"{self.where}: {key}: expected the sha256 of each file, got {found}")
        return {_file_name(name, self.where): digest for name, digest in found.items()}

    def each(self, key: str, default: Any = None) -> list[_Entries]:
        values = self.take(key, list, default)
        return [_Entries(value, f"{self.where}: {key}[{index}]") for index, value in enumerate(values)]


def _model(entries: _Entries) -> ModelSpec:
    x = _tensor(entries.inner("x"), "x")
    seen = entries.take("range", dict, {})
    if x.dtype != "float32":
        raise LoadError(f"{entries.where}: x: expected dtype float32, got {x.dtype}")
    return ModelSpec(
        name=entries.take("name", str),
        x=x,
        wrt=entries.take("wrt", str, "x"),
        cond=tuple(_tensor(entry, entry.take("name", str)) for entry in entries.each("cond", [])),
        range=_range(seen.get("x"), f"{entries.where}: range: x"),
        energies=_range(seen.get("energy"), f"{entries.where}: range: energy"),
        scales=KnownScales(
            usual=entries.scale("usual_scale", NOTHING_KNOWN.usual),
            highest=entries.scale("highest_scale", NOTHING_KNOWN.highest),
        ),
        widest=max(0, entries.take("widest", int, 0)),
    )


def _tensor(entries: _Entries, name: str) -> TensorSpec:
    shape = entries.take("shape", list)
    if not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) > _MOST_NUMBERS:
        raise LoadError(
            f"{entries.where}: shape: expected whole numbers above 0, and a product that fits into memory, got {shape}"
        )
    dtype = entries.take("dtype", str)
    if dtype not in DTYPES:
        raise LoadError(f"{entries.where}: dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    limits = entries.take("limits", list, [])
    if limits and not (len(limits) == 2 and all(type(end) is int for end in limits)):
        raise LoadError(f"{entries.where}: limits: expected the smallest and the largest whole number, got {limits}")
    return TensorSpec(
        name,
        tuple(shape),
        dtype,
        entries.take("parameter", str, ""),
        (limits[0], limits[1]) if limits else None,
        _range(entries.take("range", list, []) or None, f"{entries.where}: range"),
    )


def _range(ends: Any, where: str) -> tuple[float, float] | None:
    if ends is None:
        return None
    if not (isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)):
        raise LoadError(f"{where}: expected the smallest and the largest number, got {ends!r}")
    return float(ends[0]), float(ends[1])


def _artifact(entries: _Entries, model: ModelSpec) -> Artifact:
    reads, names = entries.take("reads", list, []), [spec.name for spec in model.cond]
    if not all(name in names for name in reads):
        raise LoadError(
            f"{entries.where}: reads: expected names of conditioning inputs ({', '.join(names)}), got {reads}"
        )
    return Artifact(
        path=_file_name(entries.take("path", str), entries.where),
        target=entries.take("target", str),
        precision=entries.take("precision", str),
        role=entries.take("role", str, "score"),
        sha256=entries.take("sha256", str),
        files=entries.digests("files"),
        toolchain=entries.take("toolchain", dict, {}),
        options=entries.take("options", dict, {}),
        status=entries.take("status", str),
        note=entries.take("note", str, ""),
        schedule=entries.take("schedule", str, ""),
        prologue=_file_name(prologue, entries.where) if (prologue := entries.take("prologue", str, "")) else "",
        reads=tuple(reads),
        shared=tuple(map(str, entries.take("shared", list, []))),
        sampler=_file_name(sampler, entries.where) if (sampler := entries.take("sampler", str, "")) else "",
        steps=entries.take("steps", int, 0),
        settings=entries.take("settings", dict, {}),
        layers=entries.take("layers", dict, {}),
        energy_rounding=entries.size("energy_rounding"),
    )


def _file_name(path: str, where: str) -> str:
    """Refuses a path that leads out of the bundle's folder."""
    if path in ("", ".", "..") or PurePosixPath(path).name != path or "\\" in path:
        raise LoadError(f"{where}: {path!r} is not the plain name of a file in the bundle")
    return path
