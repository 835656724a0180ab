"""Hooks of a copied module that were written inside its `__init__`, and so know the module that was copied."""

from __future__ import annotations

from collections.abc import Mapping
from types import CellType, FunctionType
from typing import Any

from torch import nn

__all__ = ["rebind_hooks"]


def rebind_hooks(module: nn.Module, copies: Mapping[int, Any]) -> None:
    """Has the hooks of a copy read and write the copy, where they closed over what was copied.

    `copy.deepcopy` keeps functions as they are: a hook that puts features into `self.features` would put them into those of the
    user's module, and the copy would find its own empty.

    Args:
        module: the copy; its hooks change.
        copies: what each object was copied to, by id: the memo of `copy.deepcopy`.
    """
    for child in module.modules():
        for name, hooks in vars(child).items():
            if name.endswith("_hooks") and isinstance(hooks, dict):
                for key, hook in hooks.items():
                    hooks[key] = _rebound(hook, copies, {})


def _rebound(function: Any, copies: Mapping[int, Any], seen: dict[int, Any]) -> Any:
    """A function like this one over the copies, and so for those that it calls; itself where there is nothing to change."""
    if not isinstance(function, FunctionType) or function.__closure__ is None:
        return function
    if id(function) in seen:  # it calls itself
        return seen[id(function)]
    cells = tuple(CellType() for _ in function.__closure__)
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__, made.__dict__ = function.__kwdefaults__, function.__dict__
    seen[id(function)] = made
    changed = False
    for cell, own in zip(cells, function.__closure__, strict=True):
        try:
            content = own.cell_contents
        except ValueError:  # a name that was never given a value
            continue
        cell.cell_contents = copies[id(content)] if id(content) in copies else _rebound(content, copies, seen)
        changed |= cell.cell_contents is not content and cell.cell_contents is not made
    return made if changed else function
