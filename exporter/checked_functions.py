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
    """Has distributions not look at the values of their arguments, as each log_prob does by default.

    Those that were told to, or made by `expand`, which keeps the default as if it had been told, look at parameters when they are made alone.
    """
    default, check = Distribution._validate_args, Distribution._validate_sample
    Distribution.set_default_validate_args(False)
    Distribution._validate_sample = lambda self, value: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Distribution.set_default_validate_args(default)
        Distribution._validate_sample = check  # type: ignore[method-assign]
