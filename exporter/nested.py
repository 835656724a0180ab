"""Refuses models that keep nested tensors."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..runtime.errors import ContractError

__all__ = ["refuse_nested"]


def refuse_nested(module: nn.Module) -> None:
    """Refuses a model with a nested tensor (of `torch.nested`, of either layout) as buffer, parameter or attribute.

    Raises:
        ContractError: there is such a tensor; the text names it.
    """
    for path, child in module.named_modules():
        named = dict(child.named_parameters(recurse=False)) | dict(child.named_buffers(recurse=False))
        others = {name: value for name, value in vars(child).items() if name != "_modules" and name not in named}
        for name, value in (named | others).items():
            if any(isinstance(leaf, torch.Tensor) and leaf.is_nested for leaf in pytree.tree_leaves(value)):
                raise ContractError(
                    f"{path}{'.' if path else ''}{name} is a nested tensor, whose rows have lengths of their own, and no engine "
                    "has such tensors: keep its rows padded (.to_padded_tensor(0.0)) beside their lengths"
                )
