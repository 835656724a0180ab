"""Constants that a rule computes in PyTorch while it is being traced."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

__all__ = ["constant"]


def constant(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A real tensor for use in a rule, which otherwise sees fake tensors and is recorded.

    Args:
        make: computes the tensor; nothing it does is traced.

    Returns:
        The tensor; the traced graph captures its content.
    """
    with unset_fake_temporarily(), disable_proxy_modes_tracing(), torch.no_grad():
        functional = torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.Functionalize))
        try:
            return make()
        finally:
            del functional
