"""Sparse matrices: those that a model keeps become dense, since no engine has them."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ..runtime.errors import ContractError
from .provenance import Provenance

__all__ = ["dense", "is_sparse", "refuse_sparse", "warn_of_dense"]

_LOG = logging.getLogger("ebm_export")

_LARGE = 64 * 2**20
"""Bytes of all matrices once they are dense from which on it is worth a line."""
_FAR_LARGER = 8
"""Times what they are while sparse: then most of the dense numbers are zeros."""


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers without the sparse layout, a parameter where it was one; a dense tensor as it is."""
    if not is_sparse(tensor):
        return tensor
    values = tensor.detach().to_dense()
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def is_sparse(tensor: torch.Tensor) -> bool:
    """Whether a tensor has one of PyTorch's sparse layouts."""
    return tensor.layout is not torch.strided and not tensor.is_mkldnn


def warn_of_dense(module: nn.Module) -> None:
    """Says so, once for all of them, where a module's sparse matrices become large; before they do, as they may not fit in memory."""
    found = {name: value for name, value in (*module.named_parameters(), *module.named_buffers()) if is_sparse(value)}
    full = sum(value.numel() * _item_bytes(value) for value in found.values())
    held = sum(_held_bytes(value) for value in found.values())
    if full <= _LARGE or full <= _FAR_LARGER * held:
        return
    _LOG.warning(
        "%d sparse %s (%s) %s dense, as no engine has others: %.0f MiB in place of %.3g, in the files of every precision and in memory, and "
        "a step multiplies by their zeros too",
        len(found),
        "matrix" if len(found) == 1 else "matrices",
        ", ".join(found),
        "becomes" if len(found) == 1 else "become",
        full / 2**20,
        held / 2**20,
    )


def _item_bytes(tensor: torch.Tensor) -> int:
    """Of a number of its dense form, which is in float32 where it has fractions."""
    return 4 if tensor.is_floating_point() else tensor.element_size()


def _held_bytes(tensor: torch.Tensor) -> int:
    """What a sparse tensor takes."""
    if tensor.layout is torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]  # of one that is not coalesced too
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    else:
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return sum(part.numel() * part.element_size() for part in parts)


def refuse_sparse(tensor: torch.Tensor, provenance: Provenance) -> None:
    """Ends with a ContractError where forward itself makes a sparse tensor."""
    if is_sparse(tensor):
        raise ContractError(
            f"sparse tensors are not supported{provenance.describe_last()}; keep the matrix dense (.to_dense())"
        )
