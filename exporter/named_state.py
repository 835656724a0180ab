"""Tensors under dotted names, as the parameters and buffers of a bare module tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

__all__ = ["container", "register_state"]


def container(root: nn.Module, path: str) -> nn.Module:
    """Returns the submodule at a dotted path, making bare modules where there are none."""
    module = root
    for name in filter(None, path.split(".")):
        child = module._modules.get(name)
        if child is None:
            child = nn.Module()
            child.training = root.training
            module.add_module(name, child)
        module = child
    return module


def register_state(
    root: nn.Module, state: Mapping[str, torch.Tensor], parameters: Iterable[str] = ()
) -> dict[str, str]:
    """Registers tensors on a module tree so that each keeps its dotted name.

    Args:
        root: the module to fill.
        state: tensors by dotted name; one tensor object under two names stays one object.
        parameters: the names that are parameters; the others become buffers.

    Returns:
        The name each tensor got. It differs from the wanted one only where that is taken, by an attribute that
        every module has (`forward`, `training`); such a name gets trailing underscores.
    """
    wanted = set(parameters)
    made: dict[int, nn.Parameter] = {}
    names = {}
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        module = container(root, path)
        while hasattr(module, leaf) or not leaf:
            leaf += "_"
        if name in wanted:
            if isinstance(value, nn.Parameter):
                module.register_parameter(leaf, value)
            else:
                shared = made.setdefault(id(value), nn.Parameter(value, requires_grad=value.is_floating_point()))
                module.register_parameter(leaf, shared)
        else:
            module.register_buffer(leaf, value.detach())
        names[name] = f"{path}.{leaf}" if path else leaf
    return names
