"""Pools of a single sample, which PyTorch allows and ONNX does not."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["add_batch"]


def add_batch(rule: Any, rank: int) -> Any:
    """A rule for [C, *n], which PyTorch allows, from one for [B, C, *n]."""

    def with_batch(*arguments: Any, **options: Any) -> Any:
        first = arguments[0]
        if first.dim() == rank + 2:
            return rule(*arguments, **options)
        lifted = [a.unsqueeze(0) if isinstance(a, torch.Tensor) and a.dim() == rank + 1 else a for a in arguments]
        result = rule(*lifted, **options)
        if isinstance(result, tuple):
            return tuple(part.squeeze(0) for part in result)
        return result if result is NotImplemented else result.squeeze(0)

    return with_batch
