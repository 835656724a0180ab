"""Constants that a rule computes in PyTorch while it is being traced."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

__all__ = ["constant"]


def constant(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A tensor for use in a rule, where everything else is recorded.

    Args:
        make: computes the tensor; nothing it does is traced.

    Returns:
        The tensor; the traced graph captures its content.
    """
    with disable_proxy_modes_tracing(), torch.no_grad():
        functional = torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.Functionalize))
        try:
            return make()
        finally:
            del functional
