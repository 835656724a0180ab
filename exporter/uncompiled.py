"""Runs models with parts that `torch.compile` was applied to as they were written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

__all__ = ["uncompiled"]


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled modules and functions run eagerly in here: a tracer sees nothing of what a compiler has made.

    A compiled module that is the model itself is taken off its wrapper before; this is for those inside.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and importing the compiler takes seconds
        yield
        return
    config = sys.modules["torch._dynamo"].config
    with torch.compiler.set_stance("force_eager"), config.patch(error_on_nested_fx_trace=False):
        yield
