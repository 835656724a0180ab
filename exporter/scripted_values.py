"""What TorchScript does to numbers, lists and sizes, as functions of Python's own."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from .scripted_types import DTYPES

__all__ = [
    "CONTAINERS",
    "GradientBlock",
    "LISTS_OF_TENSORS",
    "NUMBERS",
    "ONLY_SCRIPT",
    "PRIMITIVES",
    "TENSORS",
    "TENSORS_BY_HAND",
]


class GradientBlock:
    """A `with torch.no_grad()` or `with torch.enable_grad()` of a scripted forward, entered and left by two nodes."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.before = True

    def enter(self) -> None:
        self.before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(self.enabled)

    def leave(self) -> None:
        torch._C._set_grad_enabled(self.before)


def _raise(message: Any = "", *_: Any) -> None:
    raise RuntimeError(f"the TorchScript model raised: {message}")


def _as_int(value: Any) -> Any:
    if isinstance(value, (int, torch.SymInt)):
        return value
    return int(value)


def _as_float(value: Any) -> Any:
    return value if isinstance(value, torch.SymFloat) else float(value)


def _floor_division(a: Any, b: Any) -> Any:
    return a // b


def _slice(values: Any, start: Any, end: Any, step: Any) -> Any:
    return values[slice(start, end, step)]


def _format(text: str, *values: Any) -> str:
    return text.format(*values)


def _append(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


def _setitem(values: Any, key: Any, value: Any) -> Any:
    values[key] = value
    return values


def _add(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + b if isinstance(alpha, int) and alpha == 1 else a + alpha * b


def _subtract(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a - b * alpha


def _divide(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return a // b
    return math.trunc(a / b) if rounding_mode == "trunc" else a / b


def _same(value: Any, *_: Any) -> Any:
    return value


def _several(*values: Any) -> tuple[Any, ...]:
    return values


def _items(values: Any) -> Any:
    return list(values.items())


_ATTRIBUTES = ("is_cpu", "is_cuda", "is_meta", "is_mkldnn", "is_mps", "is_nested", "is_quantized", "is_sparse", "ndim")
"""What a scripted forward may ask a tensor by attribute."""

PRIMITIVES: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *values: list(values),
    "prim::ListUnpack": lambda values: tuple(values),
    "prim::TupleConstruct": _several,
    "prim::TupleUnpack": lambda values: tuple(values),
    "prim::TupleIndex": operator.getitem,
    "prim::NumToTensor": _same,
    "prim::ImplicitTensorToNum": _same,
    "prim::unchecked_cast": _same,
    "prim::unchecked_unwrap_optional": _same,
    "aten::_unwrap_optional": _same,
    "prim::Uninitialized": lambda: None,
    "prim::RaiseException": _raise,
    "prim::dtype": lambda value: DTYPES.index(value.dtype),
    "prim::device": lambda value: value.device,
    "prim::layout": lambda value: 0,
    "prim::data": lambda value: value.detach(),
    "prim::requires_grad": lambda value: value.requires_grad,
    **{f"prim::{name}": operator.attrgetter(name) for name in _ATTRIBUTES},
    "prim::type": lambda device: device.type,
    "prim::shape": lambda value: list(value.shape),
    "prim::min": min,
    "prim::max": max,
    "prim::abs": abs,
    "prim::Enter": lambda block: block.enter(),
    "prim::Exit": lambda block: block.leave(),
    "prim::Print": lambda *values: None,
    "aten::warn": lambda *values: None,
    "aten::format": _format,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
}
"""Nodes that are the same whatever their arguments are."""

NUMBERS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _subtract,
    "rsub": lambda a, b, alpha=1: b - a * alpha,
    "mul": operator.mul,
    "div": _divide,
    "floordiv": _floor_division,
    "floor_divide": _floor_division,
    "remainder": operator.mod,
    "fmod": math.fmod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__not__": operator.not_,
    "logical_not": operator.not_,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "ceil": math.ceil,
    "floor": math.floor,
    "round": round,
    "Int": _as_int,
    "IntImplicit": _as_int,
    "ScalarImplicit": _same,
    "FloatImplicit": _as_float,
    "Float": _as_float,
    "Bool": bool,
    "item": _same,
    "detach": _same,
    "to": _same,
    "clone": _same,
    "max": max,
    "min": min,
    "str": str,
}
"""Operations on numbers, where PyTorch would compute with tensors of no dimension in a traced graph, too."""

CONTAINERS: dict[str, Callable[..., Any]] = {
    "len": len,
    "__getitem__": operator.getitem,
    "slice": _slice,
    "append": _append,
    "_set_item": _setitem,
    "__contains__": lambda values, value: value in values,
    "add": operator.add,
    "add_": operator.iadd,
    "mul": operator.mul,
    "eq": operator.eq,
    "ne": operator.ne,
    "list": list,
    "copy": list,
    "keys": lambda values: list(values.keys()),
    "values": lambda values: list(values.values()),
    "items": _items,
    "get": lambda values, key, default=None: values.get(key, default),
    "reverse": lambda values: values.reverse(),
    "insert": lambda values, place, value: values.insert(place, value),
    "extend": lambda values, more: values.extend(more),
    "pop": lambda values, place=-1: values.pop(place),
    "clear": lambda values: values.clear(),
    "max": max,
    "min": min,
    "sum": sum,
    "str": str,
}
"""Operations on lists, tuples, dictionaries and strings."""

TENSORS: dict[str, Callable[..., Any]] = {
    "size": lambda value, dim=None: list(value.shape) if dim is None else value.shape[dim],
    "sym_size": lambda value, dim: value.shape[dim],
    "dim": lambda value: value.dim(),
    "len": len,
    "numel": lambda value: value.numel(),
    "stride": lambda value, dim=None: list(value.stride()) if dim is None else value.stride(dim),
    "is_floating_point": lambda value: value.is_floating_point(),
    "is_complex": lambda value: value.is_complex(),
    "item": lambda value: value.item(),
    "Int": lambda value: int(value),
    "IntImplicit": lambda value: int(value),
    "Float": lambda value: float(value),
    "FloatImplicit": lambda value: float(value),
    "ScalarImplicit": lambda value: value.item(),
    "Bool": lambda value: bool(value),
}
"""Questions to a tensor whose answer is a number."""


def _cast(value: Any, *arguments: Any) -> torch.Tensor:
    """`to` in the forms that only TorchScript has: (dtype, non_blocking, copy) or (device, dtype, ...)."""
    for argument in arguments:
        if type(argument) is int:
            return torch.as_tensor(value).to(DTYPES[argument])
    return torch.as_tensor(value)


def _tensor(value: Any, dtype: int | None = None, *_: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=None if dtype is None else DTYPES[dtype])


LISTS_OF_TENSORS = ("len", "__getitem__", "slice", "append", "_set_item", "add", "add_", "list", "copy", "keys",
                     "values", "items", "get", "reverse", "insert", "extend", "pop", "clear")  # fmt: skip
"""What is done with a list or dictionary whatever it holds."""

TENSORS_BY_HAND: dict[str, Callable[..., Any]] = {
    "to": _cast,
    "tensor": _tensor,
    "as_tensor": _tensor,
}
"""Operations that have a form in TorchScript alone."""

ONLY_SCRIPT = ("prim_dtype", "prim_Device", "prim_other", "default", "bool", "int", "float", "list")
"""The overloads of those forms."""
