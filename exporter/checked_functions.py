"""Functions of PyTorch that look at the values of their arguments only to check them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from ..runtime.errors import ContractError

__all__ = ["WithoutChecks", "unchecked_distributions"]


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


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Has distributions that were not told to check their arguments not do so; by default each log_prob looks at its values."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
