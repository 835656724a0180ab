"""Functions of PyTorch that look at the values of their arguments only to check them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..runtime.errors import ContractError

__all__ = ["WithoutChecks"]


def _one_hot(index: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """[..] int64 -> [.., num_classes] int64; without the check that every index is in range."""
    if num_classes < 1:
        try:
            return F.one_hot(index, num_classes)  # the number of classes is read from the data
        except ContractError as error:
            raise ContractError(f"{error}; give F.one_hot the number of classes: F.one_hot(index, count)") from error
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(torch.int64)


_REPLACED = {F.one_hot: _one_hot, torch.ops.aten.one_hot.default: _one_hot}


class WithoutChecks(TorchFunctionMode):
    """Calls such functions in a form that makes no decision on data."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))
