"""Runs a model in one floating-point type, whatever types its forward asks for."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["FullPrecision"]

_LOW = (torch.float16, torch.bfloat16)
_METHODS = {torch.Tensor.half: torch.float16, torch.Tensor.bfloat16: torch.bfloat16}


class FullPrecision(TorchFunctionMode):
    """Computes in `dtype` where a model written for mixed precision would compute in float16 or bfloat16.

    1. autocast, around the call or inside forward, is off.
    2. A cast to float16 or bfloat16, or a new tensor of such a type, gets `dtype` instead.

    The weights are the caller's business: a copy has them all in `dtype`. What precision an engine computes in is
    chosen for the export, and measured; it is no property of the model.

    Args:
        dtype: torch.float32 or torch.float64.

    Attributes:
        found: what was taken out: "autocast", "float16", "bfloat16".
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._dtype = dtype

    def __enter__(self) -> FullPrecision:
        self._around = torch.is_autocast_enabled("cpu")
        torch.set_autocast_enabled("cpu", False)
        self._enter_autocast = torch.autocast.__enter__
        torch.autocast.__enter__ = self._without_autocast()  # type: ignore[method-assign]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        torch.autocast.__enter__ = self._enter_autocast  # type: ignore[method-assign]
        torch.set_autocast_enabled("cpu", self._around)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METHODS:
            self._note(_METHODS[func])
            return args[0].to(self._dtype)
        return func(*map(self._widened, args), **{key: self._widened(value) for key, value in (kwargs or {}).items()})

    def _widened(self, value: Any) -> Any:
        if type(value) is torch.dtype and value in _LOW:
            self._note(value)
            return self._dtype
        return value

    def _note(self, dtype: torch.dtype) -> None:
        self.found.add(str(dtype).removeprefix("torch."))

    def _without_autocast(self) -> Any:
        """What takes the place of `torch.autocast.__enter__`: the block is entered, switched off."""
        enter, found = self._enter_autocast, self.found

        def enter_switched_off(block: torch.autocast) -> Any:
            enabled, block._enabled = block._enabled, False
            if enabled:
                found.add("autocast")
            try:
                return enter(block)  # type: ignore[no-untyped-call]
            finally:
                block._enabled = enabled

        return enter_switched_off
