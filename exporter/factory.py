"""Builds a user's model by the name of what makes it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import reprlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..runtime.errors import EbmExportError, LoadError, UsageError
from .model_errors import first_line, place_of
from .working_directory import importing_from_here

__all__ = ["build_model", "parse_model_args"]


def parse_model_args(texts: list[str]) -> dict[str, Any]:
    """Reads "k=v" texts; a value that is a Python literal (8, 0.5, True, None, (1, 2)) is that, else it is text.

    Raises:
        UsageError: a text has no name before an equals sign.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(f"--model-arg: expected NAME=VALUE, such as width=64; got {text!r}")
        try:
            arguments[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            arguments[name.strip()] = value
    return arguments


def build_model(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Imports a callable and calls it.

    Args:
        factory: "package.module:name" (the working directory can be imported from) or "folder/file.py:name"; the
            name may have dots.
        arguments: keyword arguments of the call.

    Returns:
        The module, in eval mode: weights from a file are for use, and a factory leaves its model in training mode.

    Raises:
        UsageError: the text has no colon, or the arguments do not fit.
        LoadError: there is no such module or name, or it fails, or does not give a torch module.
    """
    place, colon, name = factory.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(f"--model: expected package.module:name or file.py:name, got {factory!r}")
    module = _import_file(place) if place.endswith(".py") else _import_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            listing = ", ".join(_callables(module)) or "no callables"
            raise LoadError(f"--model: {place} has no {name!r}; it has {listing}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found.eval()
    if not callable(found):
        raise LoadError(f"--model: {factory} is a {type(found).__name__}; expected a class or function")
    _check_arguments(factory, found, arguments)
    try:
        made = found(**arguments)
    except EbmExportError:
        raise
    except Exception as error:  # the user's own code: its traceback stays in the chain
        given = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in arguments.items())
        place = place_of(error) if str(error).strip() else ""  # which an error without a text brings itself
        raise LoadError(
            f"--model: {factory}({given}) fails{place}: {type(error).__name__}: {first_line(error)}; --model-arg gives Python "
            "literals and text. For arguments of other types, such as a config object, name a function that makes the model"
        ) from error
    if not isinstance(made, nn.Module):
        raise LoadError(f"--model: {factory} gave a {type(made).__name__}; expected a torch.nn.Module")
    return made.eval()


def _check_arguments(factory: str, found: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return  # written in C: the call itself will tell
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"--model {factory}{signature}: {error}; give its arguments with --model-arg NAME=VALUE; where "
            "they are not literals (a config object), name a function that makes the model"
        ) from error


def _callables(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def _import_file(place: str) -> Any:
    path = Path(place).resolve()
    if not path.is_file():
        raise LoadError(f"--model: there is no file {place}")
    # Under a name of its own: a user's "model.py" must not replace another module of that name.
    name = f"ebm_export_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look a class's module up
    # Its neighbours can be imported, as when it is run as a script.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _import_module(place: str) -> Any:
    with importing_from_here() as here:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not (place + ".").startswith(error.name + "."):
                raise  # the module is there and imports something that is not: its own traceback tells more
            raise LoadError(
                f"--model: there is no module {place!r} (looked in the installed packages and in {here}); "
                "a file is given as path/to/file.py:name"
            ) from error
