"""The files that ebm-export reads its options from: TOML with an option's name as key, and settings of the sampler."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError

__all__ = ["read_options", "read_settings"]


def read_options(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a TOML file: option names as keys, sampler settings under [sampler].

    Returns:
        Fields of `ExportOptions` by name, and sampler settings by name.

    Raises:
        UsageError: the file cannot be read, has a key that is no option, or a value of another type than the option's.
    """
    found = {key.replace("-", "_"): value for key, value in read_settings(path).items()}
    # `sampler` at the top is the table or the file of the settings; which sampler it is stands in there.
    plain = [name for name in SamplerConfig.field_names() if name != "sampler"]
    settings = {name: found.pop(name) for name in plain if name in found}
    settings |= _sampler(path, found.pop("sampler", {}))
    fields: dict[str, Any] = {}
    for key, value in found.items():
        if key not in _OPTIONS:
            raise UsageError(f"{path}: {key!r} is no option of ebm-export")
        name, kind = _OPTIONS[key]
        read = kind.read(value)
        if read is None:
            raise UsageError(f"{path}: {key}: expected {kind.expected}, got {value!r}")
        fields[name] = read
    return fields, settings


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a TOML or JSON file as a dictionary.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
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


def _sampler(path: Path, value: Any) -> dict[str, Any]:
    """The sampler settings of a file, or of the file that it names."""
    if isinstance(value, str):
        return read_settings(Path(value))
    if not isinstance(value, dict):
        raise UsageError(f"{path}: sampler: expected a table of settings or the name of a file, got {value!r}")
    return value


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
