"""Weights in files of torch.save and safetensors, and how they get into a model."""

from __future__ import annotations

import argparse
import pathlib
import pickle  # noqa: TID251 - for the name of its error
import struct
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..runtime.errors import LoadError, MissingBackend, UsageError
from .file_form import FileForm, pickled_globals
from .working_directory import importing_from_here

__all__ = ["find_states", "fit_state", "read_weights"]

_SHOWN = 6
"""Names that a message lists before it says how many more there are."""

_DEEPEST = 4
"""How far down the nested dictionaries of a checkpoint are searched."""


def read_weights(path: Path, form: FileForm, *, trust_pickle: bool = False) -> Any:
    """Reads what a file of torch.save or safetensors holds, on the CPU.

    Args:
        path: the file.
        form: PICKLE or SAFETENSORS.
        trust_pickle: unpickle without restriction, which runs whatever code the file names; the working directory can be
            imported from.

    Returns:
        A state_dict or a dictionary with some inside; a module only where `trust_pickle` is set.

    Raises:
        LoadError: the file holds objects that only unrestricted unpickling gives, or is damaged.
        MissingBackend: it is a safetensors file and the package is not installed.
    """
    if form is FileForm.SAFETENSORS:
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust_pickle:
            raise LoadError(_refusal(path)) from error
    except _DAMAGE as error:
        raise LoadError(f"{path} is damaged or cut off ({_line(error)}); copy or save it again") from error
    try:
        with importing_from_here():
            return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise LoadError(
            f"{path} cannot be unpickled: {error}; run from the folder of the code that defines its classes"
        ) from error


_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    struct.error,
)
"""What PyTorch's readers raise for a file whose bytes are not what they wrote."""


def _harmless() -> list[Any]:
    """What training frameworks keep beside weights and that cannot do anything when it is made."""
    scalar = getattr(np, "_core", None) or np.core
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        pathlib.PosixPath,
        pathlib.PurePosixPath,
        scalar.multiarray.scalar,
        np.dtype,
        *{type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")},
    ]


def _refusal(path: Path) -> str:
    names, whole = pickled_globals(path)
    plain = ("torch._utils.", "collections.", "torch.storage", "builtins.")
    own = [name for name in names if not name.startswith(plain)]
    own = [name for name in own if not (name.startswith("torch.") and name.endswith("Storage"))]
    if whole:
        return (
            f"{path} is a pickled {own[0] if own else 'object'}. It is refused because unpickling imports and runs "
            "whatever the file names. Safe ways to hand over the same model: save_energy(model, path, example) or "
            "torch.export.save, which need nothing else; or torch.save(model.state_dict(), path) with "
            "--model package.module:factory. If you made the file yourself: --trust-pickle"
        )
    return (
        f"{path} is a checkpoint that holds objects beside its weights ({_some(own)}). It is refused because "
        "unpickling imports and runs whatever the file names. Save the weights alone, "
        "torch.save(model.state_dict(), path); or, if you made the file yourself, give --trust-pickle"
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "safetensors":
            raise
        raise MissingBackend(
            "reading a safetensors file needs the package safetensors: pip install 'ebm-export[export]'"
        ) from error
    try:
        return dict(load_file(path, device="cpu"))
    except SafetensorError as error:
        raise LoadError(f"{path} is a damaged or cut-off safetensors file ({error}); copy it again") from error


def find_states(content: Any, state_key: str | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """Finds the state_dicts in what a file holds.

    Args:
        content: what `read_weights` gave.
        state_key: dotted keys that lead to the one to use.

    Returns:
        State_dicts by the dotted keys that lead to them; "" is the whole content. At least one.

    Raises:
        LoadError: there is none.
        UsageError: `state_key` leads to none.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    _search(content, "", found, 0)
    if state_key is not None:
        if state_key in found:
            return {state_key: found[state_key]}
        raise UsageError(
            f"--state-key: there is no state_dict under {state_key!r}; "
            + (f"there is one under {_some(found, quote=True)}" if found else "there is none in the file")
        )
    if not found:
        kind = type(content).__name__
        keys = f" with the keys {_some(map(str, content))}" if isinstance(content, Mapping) and content else ""
        raise LoadError(f"the file holds a {kind}{keys} and no state_dict; expected tensors by name")
    return found


def _search(value: Any, path: str, found: dict[str, dict[str, torch.Tensor]], depth: int) -> None:
    if not isinstance(value, Mapping) or depth > _DEEPEST or not all(isinstance(key, str) for key in value):
        return
    tensors = {key: entry for key, entry in value.items() if isinstance(entry, torch.Tensor)}
    # A state_dict is mostly tensors; counters beside nested dictionaries are not one.
    if tensors and 2 * len(tensors) > len(value):
        found[path] = {**tensors, **{k: v for k, v in value.items() if k.endswith("_extra_state")}}
        return
    for key, entry in value.items():
        _search(entry, f"{path}.{key}" if path else key, found, depth + 1)


def fit_state(
    module: nn.Module, states: Mapping[str, dict[str, torch.Tensor]], *, strip_prefix: str | None = None
) -> None:
    """Loads the one state_dict that fits into a module, without the prefix that its names may have.

    Args:
        module: changed in place.
        states: as `find_states` gives them.
        strip_prefix: start of the names to take off; names without it are left out. If not given, a prefix is taken
            off where that makes every name of the module come out.

    Raises:
        LoadError: nothing fits; the text has the missing and unexpected names and other shapes.
        UsageError: several fit, or no name has the given prefix.
    """
    fitting: list[tuple[str, str]] = []
    for key, state in states.items():
        prefixes = [_given_prefix(state, strip_prefix)] if strip_prefix is not None else _prefixes(module, state)
        fitting += [(key, prefix) for prefix in prefixes if _fits(module, _stripped(state, prefix))]
    if len(fitting) == 1:
        key, prefix = fitting[0]
        module.load_state_dict(_stripped(states[key], prefix))
        return
    keys = list(dict.fromkeys(key for key, _ in fitting))
    if len(keys) > 1:
        raise UsageError(
            f"the checkpoint has several state_dicts that fit the model: {_some(keys, quote=True)}; "
            f"pick one, such as --state-key {keys[0]}"
        )
    if fitting:
        listing = _some((prefix for _, prefix in fitting), quote=True)
        raise UsageError(
            f"the names in the state_dict fit the model behind several prefixes: {listing}; "
            f"pick one, such as --strip-prefix {fitting[-1][1]}"
        )
    if len(states) > 1:
        raise LoadError(
            f"none of the state_dicts in the checkpoint fits the model; they are under {_some(states, quote=True)}: "
            f"pick one with --state-key to see what is different. For {next(iter(states))!r}: "
            + _difference(module, next(iter(states.values())), strip_prefix)
        )
    raise LoadError(
        f"the weights do not fit the model: {_difference(module, next(iter(states.values())), strip_prefix)}; "
        "check the factory's arguments (--model-arg), or the prefix of the names (--strip-prefix)"
    )


def _given_prefix(state: Mapping[str, Any], prefix: str) -> str:
    for start in (prefix, prefix.rstrip(".") + "."):
        if any(name.startswith(start) for name in state):
            return start if start.endswith(".") or not any(n.startswith(prefix + ".") for n in state) else prefix + "."
    raise UsageError(
        f"--strip-prefix: no name begins with {prefix!r}; they begin with "
        + _some(dict.fromkeys(name.partition(".")[0] for name in state), quote=True)
    )


def _prefixes(module: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """The empty prefix and those with which one name of the module, and then all, occur in the state."""
    own = list(module.state_dict())
    if not own:
        return [""]
    if _fits(module, state):
        return [""]
    rarest = max(own, key=len)
    ends = {name[: -len(rarest)] for name in state if name.endswith("." + rarest)}
    return ["", *sorted(prefix for prefix in ends if all(prefix + name in state for name in own))]


def _stripped(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _fits(module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the module takes the state; its own loading hooks, which know old names, have their say."""
    own = module.state_dict()
    if any(name in own and not _same_shape(value, own[name]) for name, value in state.items()):
        return False
    if any(is_lazy(value) for value in own.values()):
        return own.keys() == state.keys()  # to load it would give lazy layers the shapes of what may not be theirs
    try:
        module.load_state_dict(dict(state))
    except RuntimeError:
        return False
    return True


def _difference(module: nn.Module, state: Mapping[str, torch.Tensor], strip_prefix: str | None) -> str:
    own = module.state_dict()
    if strip_prefix is not None:
        state = _stripped(state, _given_prefix(state, strip_prefix))
    else:
        # Under the prefix with which most names are right, so that one wrong layer does not show as all of them.
        ends = {k[: -len(n)] for n in own for k in state if k.endswith("." + n)} | {""}
        best = max(sorted(ends), key=lambda p: sum(p + name in state for name in own))
        state = _stripped(state, best) if best else state
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} (file {_size(state[name])}, model {_size(own[name])})"
        for name in own
        if name in state and not _same_shape(state[name], own[name])
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing from the file: {_some(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected in the file: {_some(unexpected)}")
    if shapes:
        parts.append(f"{len(shapes)} of another shape: {_some(shapes)}")
    return "; ".join(parts) or "the model refuses them when it loads them"


def _same_shape(given: Any, own: Any) -> bool:
    """Whether an entry has the model's shape; that of a lazy layer is whatever it is given."""
    return is_lazy(own) or _shape(given) == _shape(own)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _size(value: Any) -> str:
    return "x".join(map(str, _shape(value))) or "scalar"


def _some(names: Iterable[str], *, quote: bool = False) -> str:
    listed = [repr(name) if quote else name for name in names]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
