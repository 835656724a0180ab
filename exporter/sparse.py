"""Sparse matrices: those that a model keeps become dense, since no engine has them."""

from __future__ import annotations

import torch
from torch import nn

from ..runtime.errors import ContractError
from .provenance import Provenance

__all__ = ["dense", "is_sparse", "refuse_sparse"]


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers without the sparse layout, a parameter where it was one; a dense tensor as it is."""
    if not is_sparse(tensor):
        return tensor
    values = tensor.detach().to_dense()
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def is_sparse(tensor: torch.Tensor) -> bool:
    """Whether a tensor has one of PyTorch's sparse layouts."""
    return tensor.layout is not torch.strided and not tensor.is_mkldnn


def refuse_sparse(tensor: torch.Tensor, provenance: Provenance) -> None:
    """Ends with a ContractError where forward itself makes a sparse tensor."""
    if is_sparse(tensor):
        raise ContractError(
            f"sparse tensors are not supported{provenance.describe_last()}; keep the matrix dense (.to_dense())"
        )
