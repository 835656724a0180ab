"""Refuses models that PyTorch has quantized."""

from __future__ import annotations

from torch import nn

from ..runtime.errors import ContractError

__all__ = ["refuse_quantized"]


def refuse_quantized(module: nn.Module) -> None:
    """Refuses a model with layers of `torch.ao.quantization`, statically or dynamically quantized.

    Raises:
        ContractError: there is such a layer; the text names it.
    """
    for path, child in module.named_modules():
        home = type(child).__module__.split(".")
        floating = type(child).__name__ in ("FloatFunctional", "FXFloatFunctional")
        if home[0] == "torch" and "quantized" in home and not floating:
            raise ContractError(
                f"{path or 'the model'} is a quantized layer ({type(child).__name__}): its weights are packed whole "
                "numbers, and PyTorch has no gradient through it, so there is no dE/dx to export; export the float "
                "model that it was made from, and choose the precision of the engines with precisions (--precision)"
            )
