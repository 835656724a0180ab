"""What runs one operation of a TorchScript graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..runtime.errors import LoadError
from .reaching_out import reaches_out
from .scripted_place import place_of
from .scripted_types import FROM_NUMBER
from .scripted_values import CONTAINERS, LISTS_OF_TENSORS, NUMBERS, ONLY_SCRIPT, TENSORS, TENSORS_BY_HAND

__all__ = ["operation", "refuse"]


def operation(node: Any) -> Callable[..., Any]:
    """What runs an operation: PyTorch's own where a tensor takes part, Python's on numbers and containers.

    An operation that cannot be run raises when it is reached, not when it is read: it may stand in a branch that is
    never taken (training, scripting checks).
    """
    kind = node.kind()
    space, _, name = kind.partition("::")
    schema = node.schema()
    if schema == "(no schema)" or space == "prim" or reaches_out(kind):
        return refuse(kind, place_of(node))
    overload = schema.partition("(")[0].partition("::")[2].partition(".")[2] or "default"
    arguments = torch._C.parse_schema(schema).arguments
    native = getattr(getattr(getattr(torch.ops, space), name, None), overload, None)
    kinds = [str(argument.real_type).removeprefix("Optional[").rstrip("]") for argument in arguments]
    convert = [FROM_NUMBER.get(kind) for kind in kinds]

    def run(*inputs: Any) -> Any:
        first = inputs[0] if inputs else None
        if space == "aten" and isinstance(first, torch.Tensor) and name in TENSORS:
            return TENSORS[name](*inputs)
        if space == "aten" and inputs and not any(isinstance(v, torch.Tensor) for i in inputs for v in _flat(i)):
            if isinstance(first, (list, tuple, dict, str)) and name in CONTAINERS:
                return CONTAINERS[name](*inputs)
            if isinstance(first, _NUMBER) and name in NUMBERS:
                return NUMBERS[name](*inputs)
        if isinstance(first, (list, dict)) and name in LISTS_OF_TENSORS:
            return CONTAINERS[name](*inputs)
        if name in TENSORS_BY_HAND and (native is None or overload in ONLY_SCRIPT):
            return TENSORS_BY_HAND[name](*inputs)
        if native is None:
            raise LoadError(f"the TorchScript graph uses {kind}, which this PyTorch does not have")
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for value, argument, change in zip(inputs, arguments, convert, strict=True):
            if change is not None and type(value) is int:
                value = change[value]
            if argument.kwarg_only:
                kwargs[argument.name] = value
            else:
                args.append(value)
        return native(*args, **kwargs)

    return run


def refuse(kind: str, place: str) -> Callable[..., Any]:
    """What stands for an operation that cannot be run: it raises when it is reached."""

    def run(*_: Any) -> Any:
        raise LoadError(
            f"the TorchScript graph uses {kind}, which this exporter cannot run"
            + (f" ({place})" if place else "")
            + "; export the model with save_energy or torch.export.save instead"
        )

    return run


def _flat(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


_NUMBER = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
