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
    """Calls a function; the modules that the function uses become its submodules, under the names it uses.

    A copy of this module therefore owns copies of those modules, and their parameters can be swapped like any
    module's. Found are modules in the function's closure, in the globals its code names, in its defaults, and the
    module it is a method of. Modules it reaches in other ways are used as they are.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        plain = function.__func__ if isinstance(function, types.MethodType) else function
        found: dict[str, nn.Module] = {}
        if isinstance(plain, types.FunctionType):
            for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
                value = _cell_value(cell)
                if isinstance(value, nn.Module):
                    found[name] = value
            for name in plain.__code__.co_names:
                value = plain.__globals__.get(name)
                if isinstance(value, nn.Module):
                    found[name] = value
        if isinstance(function, types.MethodType) and isinstance(function.__self__, nn.Module):
            found["self"] = function.__self__
        self._own = dict.fromkeys(found)
        for name, module in found.items():
            # A prefix keeps names such as "train" or "forward" from hiding what nn.Module itself defines.
            self.add_module(_PREFIX + name, module)
        self.training = any(module.training for module in found.values())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with this module's own submodules in the places of the originals."""
        function = self.function
        if not self._own:
            return function(*args, **kwargs)
        modules = {name: getattr(self, _PREFIX + name) for name in self._own}
        bound: tuple[Any, ...] = ()
        if isinstance(function, types.MethodType):
            bound = (modules.get("self", function.__self__),)
            function = function.__func__
        if isinstance(function, types.FunctionType):
            cells = tuple(
                types.CellType(modules[name]) if name in modules else cell
                for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            )
            scope = {**function.__globals__, **{n: m for n, m in modules.items() if n in function.__code__.co_names}}
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
            copied.add_module(_PREFIX + name, copy.deepcopy(getattr(self, _PREFIX + name), memo))
        copied.training = self.training
        return copied


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
