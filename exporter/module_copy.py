"""Copies of a user's module."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..runtime.errors import ContractError
from .hook_closures import rebind_hooks
from .sparse import dense, is_sparse

__all__ = ["copy_module"]


def copy_module(module: nn.Module) -> nn.Module:
    """Returns a deep copy in float32 on the CPU whose parameters need no gradient; the module itself is not touched.

    Tensors that a forward left behind as attributes (the weight that a spectral-norm hook computes, a cached
    feature) carry a history, which `copy.deepcopy` refuses; the copy gets their values. Sparse matrices become dense.
    """
    lazy = [name for name, value in module.named_parameters() if nn.parameter.is_lazy(value)]
    if lazy:
        raise ContractError(
            f"the parameter {lazy[0]!r} has no shape yet (a lazy layer); run the model once on a batch, or load its "
            "weights, before it is exported"
        )
    memo: dict[int, Any] = {}
    for child in module.modules():
        for value in pytree.tree_leaves([v for k, v in vars(child).items() if k != "_modules"]):
            if not isinstance(value, torch.Tensor):
                continue
            if is_sparse(value):
                memo[id(value)] = dense(value)
            elif not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        with torch.no_grad():  # TorchScript clones its parameters, which then are no leaves any more
            copied = copy.deepcopy(module, memo)
        rebind_hooks(copied, memo)
        return copied.float().cpu().requires_grad_(False)
    except Exception as error:  # weights on the meta device, an open file as attribute
        raise ContractError(
            f"the model cannot be copied ({type(error).__name__}: {error}); run it once before exporting, load its "
            "weights, and keep files and locks out of its attributes"
        ) from error
