"""The energy contract: what a model must do before it is worth tracing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..runtime.errors import ContractError, EbmExportError
from ..runtime.start import start_states
from .batch_trials import check_independence, check_repeatability, refinable
from .full_precision import FullPrecision
from .model_errors import TAKE_SIZE, dtype_name, failing, first_line, why_it_fails
from .module_copy import copy_module
from .more_rows import conditions_like, rows_like
from .nested import refuse_nested
from .quantized import refuse_quantized
from .sparse import warn_of_dense

if TYPE_CHECKING:
    from .energy import Energy

__all__ = ["check_contract"]

_LOG = logging.getLogger("ebm_export")

_BATCH = 5
"""Samples in a check; an odd number that few models have as a size."""


def check_contract(energy: Energy, start: torch.Tensor | None = None) -> None:
    """Checks that a model is an energy: E(x, *cond) -> one finite number per sample, with a gradient in x.

    In this order: x is floating; the model runs; its output is [B] or [B, 1] of floats; two calls agree; a sample's
    energy depends on that sample alone, and not on the batch size; energies and gradients are finite where chains
    start; the gradient is not zero everywhere. All runs are on a float32 copy on the CPU: neither the module nor the
    random numbers of torch change. The copy keeps the module's mode; nothing is switched to eval() here, since a
    model that is exported in another mode than it runs in is another model.

    Args:
        energy: the model with its example inputs.
        start: [M, *S] states that chains start from; drawn as the sampler's `init` says if left out (for "data",
            the example).

    Raises:
        ContractError: the model breaks the contract; the text says what came and what was expected.
    """
    if not energy.x.is_floating_point():
        raise ContractError(
            f"the refined input {energy.wrt!r} is {dtype_name(energy.x)}; expected floating point, since it moves along a "
            "gradient: choose another input with wrt (--wrt), or embed it outside the energy"
        )
    for name, value in energy.cond.items():
        if value.is_complex():
            raise ContractError(
                f"the conditioning input {name!r} is {dtype_name(value)}; expected real numbers, as engines have no complex ones: give its "
                "real and imaginary parts as inputs of their own"
            )
    refuse_quantized(energy.module)
    refuse_nested(energy.module)
    warn_of_dense(energy.module)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), FullPrecision() as precision:
        module = copy_module(energy.module)
        example = tuple(_plain(value) for value in energy.example)
        _check_output(energy, _call(energy, module, example), int(energy.x.shape[0]))
        _check_complete(energy.module, module)
        rows = _start_rows(energy, example, start)
        _check_output(energy, _call_at_start(energy, module, example, rows), _BATCH)
        check_repeatability(module, rows, energy.reduce)
        check_independence(module, rows, energy.reduce)
        _check_gradient(energy, module, rows)
    if precision.found:
        _LOG.warning(
            "the model asks for %s in forward; it is exported in float32 throughout, and the precision of the engines "
            "is what the export is told (--precision)",
            ", ".join(sorted(precision.found)),
        )


def _plain(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _call(energy: Energy, module: nn.Module, inputs: Sequence[torch.Tensor]) -> Any:
    try:
        return module(*refinable(inputs))
    except EbmExportError:
        raise  # an operation of the model's file that cannot be run
    except Exception as error:
        raise why_it_fails(energy, inputs, error) from error


def _call_at_start(
    energy: Energy, module: nn.Module, example: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]
) -> Any:
    """The output for the rows of a check; the example's own as many times tell a batch that does not fit from numbers that do not."""
    try:
        return module(*refinable(rows))
    except Exception:
        with failing(
            f"the model runs at the example's batch of {energy.x.shape[0]} and fails at a batch of {_BATCH}", TAKE_SIZE
        ):
            module(*refinable([value[torch.arange(_BATCH) % len(value)] for value in example]))
        start = energy.sampler.init if energy.sampler is not None else "normal"
        with failing(
            f"the model runs on the example and fails where chains start ({start})",
            f"check the range of the inputs (bounds, init){energy.made_up}",
        ):
            raise


def _check_complete(module: nn.Module, called: nn.Module) -> None:
    before = {name for name, _ in module.named_parameters()}
    made = [name for name, _ in called.named_parameters() if name not in before]
    if made:
        raise ContractError(
            f"forward makes the parameter {made[0]!r} when it is called first, so each copy of the model has another; "
            "run the model once on a batch, or load its weights, before it is exported"
        )


def _check_output(energy: Energy, output: Any, batch: int) -> None:
    expected = f"one energy per sample, [{batch}] or [{batch}, 1]"
    if not isinstance(output, torch.Tensor):
        kinds = type(output).__name__
        if isinstance(output, (tuple, list)):
            kinds += " of " + ", ".join(
                str(tuple(v.shape)) if isinstance(v, torch.Tensor) else type(v).__name__ for v in output
            )
        raise ContractError(
            f"the model returns a {kinds}; expected {expected}: wrap it in a function that returns the energy alone"
        )
    if not output.is_floating_point():
        raise ContractError(f"the model returns {dtype_name(output)}; expected {expected} in floating point")
    shape = tuple(output.shape)
    if energy.mode == "logsumexp":
        if len(shape) != 2 or shape[0] != batch:
            raise ContractError(
                f"the model returns shape {shape}; energy=logsumexp expects logits [{batch}, K] for a batch of {batch}"
            )
        return
    if shape in ((batch,), (batch, 1)):
        return
    hint = "reduce it over all dimensions but the first"
    if len(shape) == 2 and shape[0] == batch:
        hint = (
            f"if these are the logits of a classifier over {shape[1]} classes, its energy is "
            "-logsumexp(logits): --energy logsumexp"
        )
    elif not shape or shape == (1,):
        hint = "forward sums or averages over the batch; leave the first dimension"
    raise ContractError(f"the model returns shape {shape} for a batch of {batch}; expected {expected}: {hint}")


def _start_rows(
    energy: Energy, example: tuple[torch.Tensor, ...], start: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    rows = [
        (rows_like if i == energy.position else conditions_like)(v, max(_BATCH, v.shape[0]), 11 + i)[:_BATCH]
        for i, v in enumerate(example)
    ]
    shape = tuple(energy.x.shape[1:])
    if start is not None:
        rows[energy.position] = rows_like(_plain(start[:_BATCH]), _BATCH, 17)
    elif energy.sampler is None or energy.sampler.init == "normal":
        numbers = np.random.default_rng(0).standard_normal((_BATCH, *shape), dtype=np.float32)
        if energy.sampler is not None and energy.sampler.bounds is not None:
            numbers = np.clip(numbers, *(np.float32(end) for end in energy.sampler.bounds))
        rows[energy.position] = torch.from_numpy(numbers)
    elif energy.sampler.init == "uniform":
        rows[energy.position] = torch.from_numpy(start_states(energy.sampler, shape, range(_BATCH), 0))
    return tuple(rows)


def _check_gradient(energy: Energy, module: nn.Module, rows: Sequence[torch.Tensor]) -> None:
    x = rows[energy.position].detach().clone().requires_grad_()
    inputs = [x if i == energy.position else value for i, value in enumerate(rows)]
    value = energy.reduce(module(*inputs))
    start = energy.sampler.init if energy.sampler is not None else "normal"
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        came = value.detach()[~finite][0].item()
        raise ContractError(
            f"{int((~finite).sum())} of {_BATCH} energies are not finite ({came}) where chains start ({start}); "
            f"expected finite numbers there: check the range of the inputs (bounds, init) and the weights{energy.made_up}"
        )
    unrelated = (
        f"the energy has no gradient in {energy.wrt!r}; expected it to depend on it through differentiable "
        "operations: look for detach(), no_grad, argmax or a cast to whole numbers in forward"
    )
    if not value.requires_grad:
        raise ContractError(unrelated)
    try:
        (grad,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    except Exception as error:  # a backward of the user's own may raise anything
        raise ContractError(f"the gradient of the energy fails: {type(error).__name__}: {first_line(error)}") from error
    if grad is None:
        raise ContractError(unrelated)
    broken = ~torch.isfinite(grad).reshape(len(grad), -1).all(dim=1)
    if bool(broken.any()):
        raise ContractError(
            f"the gradient of {int(broken.sum())} of {_BATCH} samples is not finite where chains start ({start}), "
            f"though their energies are; look for sqrt, norm or a division at zero in forward{energy.made_up}"
        )
    if not bool(grad.any()):
        raise ContractError(
            f"the gradient in {energy.wrt!r} is zero for all {_BATCH} samples where chains start ({start}); expected "
            "a slope to follow: the model is constant there (saturated, rounded, or its last layer is zero)"
        )
