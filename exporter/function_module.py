"""Functions, and calls by keyword, as modules."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["FunctionModule", "KeywordCall"]


class FunctionModule(nn.Module):
    """Calls a function; the modules and tensors that it uses become submodules and buffers, under the names it uses.

    A copy of this module therefore owns copies of them, on the device and in the type of the copy, and they can be
    swapped like any module's. Found are those in the function's closure and in the globals its code names, and the
    module it is a method of. What it reaches in other ways (a default, a list) is used as it is. Tensors made in
    inference mode, which autograd refuses, become ordinary ones.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        plain = function.__func__ if isinstance(function, types.MethodType) else function
        found: dict[str, nn.Module | torch.Tensor] = {}
        if isinstance(plain, types.FunctionType):
            cells = zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True)
            used = [(name, plain.__globals__.get(name)) for name in plain.__code__.co_names]
            for name, value in [(name, _cell_value(cell)) for name, cell in cells] + used:
                if isinstance(value, (nn.Module, torch.Tensor)):
                    found[name] = value
        if isinstance(function, types.MethodType) and isinstance(function.__self__, nn.Module):
            found["self"] = function.__self__
        self._own = dict.fromkeys(found)
        for name, value in found.items():
            self._add(name, value)
        self.training = any(value.training for value in found.values() if isinstance(value, nn.Module))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with this module's own submodules and buffers in the places of the originals."""
        function = self.function
        if not self._own:
            return function(*args, **kwargs)
        own = {name: getattr(self, _PREFIX + name) for name in self._own}
        bound: tuple[Any, ...] = ()
        if isinstance(function, types.MethodType):
            bound = (own.get("self", function.__self__),)
            function = function.__func__
        if isinstance(function, types.FunctionType):
            cells = tuple(
                types.CellType(own[name]) if name in own else cell
                for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            )
            scope = {**function.__globals__, **{n: m for n, m in own.items() if n in function.__code__.co_names}}
            copied = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, cells)
            copied.__kwdefaults__ = function.__kwdefaults__
            function = copied
        return function(*bound, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionModule:
        """Copies the submodules; the function itself is shared, since Python cannot copy one."""
        copied = FunctionModule.__new__(FunctionModule)
        memo[id(self)] = copied
        nn.Module.__init__(copied)
        copied.function = self.function if self._own else copy.deepcopy(self.function, memo)
        copied._own = dict(self._own)
        for name in self._own:
            copied._add(name, copy.deepcopy(getattr(self, _PREFIX + name), memo))
        copied.training = self.training
        return copied

    def _add(self, name: str, value: nn.Module | torch.Tensor) -> None:
        # A prefix keeps names such as "train" or "forward" from hiding what nn.Module itself defines.
        if isinstance(value, nn.Module):
            self.add_module(_PREFIX + name, value)
        else:
            plain = value.detach()
            self.register_buffer(_PREFIX + name, plain.clone() if plain.is_inference() else plain, persistent=False)


class KeywordCall(nn.Module):
    """Calls a module with its inputs as keywords, where they are not its first parameters in order."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.training = model.training

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Passes input i as the keyword `names[i]`."""
        return self.model(**dict(zip(self.names, inputs, strict=True)))


_PREFIX = "fn_"


def _cell_value(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that the enclosing function has not set yet
        return None
