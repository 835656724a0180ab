"""What becomes of the texts of options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.array_file import read_given_array
from ..runtime.buffer_turn import BufferFile
from ..runtime.composed_bundles import Composition
from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError
from ..runtime.limits import limit_memory, use_cpus

__all__ = [
    "array_or_none",
    "as_typed",
    "buffer_of",
    "chosen",
    "composition_of",
    "conditions_of",
    "limit_process",
    "numbers_of",
    "sampler_settings",
]

_MAY_BE_NONE = ("--noise", "--grad-clip", "--bounds", "--target-accept")
"""Options of settings that may be None."""


def sampler_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler settings among the options of a command, as SamplerConfig takes them; those not given are left out."""
    given = {name: options[name] for name in SamplerConfig.field_names() if options.get(name) is not None}
    for name in ("step_size", "noise", "temperature", "grad_clip", "bounds", "ladder", "target_accept"):
        if name in given:
            given[name] = numbers_of(f"--{name.replace('_', '-')}", given[name])
    return {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}


def numbers_of(option: str, text: str) -> float | tuple[float, ...] | None:
    """Reads a number, or numbers with commas between them; None stands for `none`, which takes away what a bundle has."""
    if option in _MAY_BE_NONE and text == "none":
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        none = ", or none" if option in _MAY_BE_NONE else ""
        raise UsageError(
            f"{option}: expected a number, or numbers with commas between them{none}, got {text!r}"
        ) from error
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


def array_or_none(path: Path | None) -> np.ndarray | None:
    """Reads FILE.npy where one was given."""
    return None if path is None else read_given_array(path)


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
        found[name] = read_given_array(Path(path)) if number is None else np.array([number])
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
