"""The energy contract: what a model must do before it is worth tracing."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..runtime.errors import ContractError, EbmExportError
from ..runtime.start import start_states
from .full_precision import FullPrecision
from .module_copy import copy_module
from .more_rows import conditions_like, rows_like
from .nested import refuse_nested
from .quantized import refuse_quantized
from .sparse import is_sparse, warn_of_dense

if TYPE_CHECKING:
    from .energy import Energy

__all__ = ["check_contract", "check_independence", "check_repeatability"]

_LOG = logging.getLogger("ebm_export")

_BATCH = 5
"""Samples in a check; an odd number that few models have as a size."""

_ROUNDING = 1e-4
"""Difference of two energies that counts as rounding, relative to the largest energy of the batch. Other batch sizes
make other sums of float32, which differ by some 1e-6; a batch norm in training mode or a dropout changes more."""


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
            f"the refined input {energy.wrt!r} is {_dtype(energy.x)}; expected floating point, since it moves along a "
            "gradient: choose another input with wrt (--wrt), or embed it outside the energy"
        )
    for name, value in energy.cond.items():
        if value.is_complex():
            raise ContractError(
                f"the conditioning input {name!r} is {_dtype(value)}; expected real numbers, as engines have no complex ones: give its "
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


def check_repeatability(
    module: nn.Module, rows: Sequence[torch.Tensor], reduce: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> None:
    """Checks that two calls with the same inputs give the same energies.

    Args:
        module: the model; its state may change.
        rows: a batch of every input, [B, ...].
        reduce: turns the output into energies.

    Raises:
        ContractError: they differ by more than rounding, or a call fails.
    """
    with _failing("the model fails when it is called again with the same inputs", "forward changes its own state"):
        first, second = (_energies(module, rows, reduce) for _ in range(2))
    gap = _gap(first, second)
    if gap:
        raise ContractError(
            f"two calls with the same inputs gave different energies ({gap}); expected equal ones: "
            + _training_hint(module, "the model draws random numbers or changes its own state in forward")
        )


def check_independence(
    module: nn.Module,
    rows: Sequence[torch.Tensor],
    reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    at_other_sizes: bool = True,
) -> None:
    """Checks that each energy is a function of its own sample, in any company.

    Args:
        module: the model; its state may change.
        rows: a batch of every input, [B, ...] with B at least 2.
        reduce: turns the output into energies.
        at_other_sizes: False for a model that may fail at another batch than that of the rows, which is then none of its faults here.

    Raises:
        ContractError: an energy changes with the other samples, or with how many they are, or the model fails there.
    """
    size = rows[0].shape[0]
    before = _energies(module, rows, reduce)
    for kept in (0, size - 1):
        changed = [_others_changed(value, kept) for value in rows]
        with _failing("the model fails at other rows in the range of those that it ran on", _GIVE_ROWS):
            after = _energies(module, changed, reduce)
        gap = _gap(before[kept : kept + 1], after[kept : kept + 1], _largest(before))
        if gap:
            raise ContractError(
                f"the energy of sample {kept} changes with the other samples of its batch ({gap}); expected it to "
                "depend on its own sample alone: "
                + _training_hint(module, "look for a mean, norm or softmax over dimension 0 in forward")
            )
    try:
        with _failing(f"the model runs at a batch of {size} and fails at a batch of {size - 1}", _TAKE_SIZE):
            fewer = _energies(module, [value[: size - 1] for value in rows], reduce)
    except ContractError:
        if at_other_sizes:
            raise
        return
    gap = _gap(before[: size - 1], fewer)
    if gap:
        raise ContractError(
            f"the energies change with the number of samples in the batch ({gap}, at {size} and {size - 1} samples); "
            "expected one number per sample whatever its company: " + _training_hint(module, "do not divide by B")
        )


# --- the parts

_WANTED_TYPES = (
    (
        (
            "used as indices",
            "scalar types: Long",
            "scalar type Long but found Float",
            "Expected dtype int32 or int64",
            "LongTensor",
        ),
        "int64",
    ),
    (("only supports boolean", "scalar type Bool", "expected BoolTensor", "mask to be bool"), "bool"),
)
"""Phrases of PyTorch's errors about an argument of another type, and the type to give. Tables that are too small say other things."""


def _plain(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _refinable(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The inputs as a sampler has them: a model may take a gradient by its input inside forward."""
    return [v.detach().clone().requires_grad_() if v.is_floating_point() else v for v in inputs]


def _call(energy: Energy, module: nn.Module, inputs: Sequence[torch.Tensor]) -> Any:
    try:
        return module(*_refinable(inputs))
    except EbmExportError:
        raise  # an operation of the model's file that cannot be run
    except Exception as error:  # the model's own error, whatever it is
        if "Inference tensors cannot be saved" in str(error):
            raise ContractError(
                "forward uses a tensor that was made in torch.inference_mode(), which autograd cannot follow; make it "
                "under torch.no_grad() instead, or clone it outside of inference mode"
            ) from error
        if any(phrase in _line(error) for phrase in _ON_A_GPU):
            raise ContractError(
                f"the model makes tensors on a GPU, and an export runs its copy on the CPU ({_line(error).partition('. ')[0]}): make them "
                "where x is (device=x.device); a torch.export archive or TorchScript file keeps the device that it was written on, so "
                "write it again from model.cpu()"
            ) from error
        shapes = ", ".join(f"{tuple(value.shape)} {_dtype(value)}" for value in inputs)
        raise ContractError(
            f"the model fails on the example ({shapes}): {type(error).__name__}: {_line(error)}"
            f"{_type_hint(energy, _line(error))}{_sparse_hint(energy.module, _line(error))}{_double_hint(_line(error))}"
        ) from error


_TAKE_SIZE = "take the batch size from x.shape[0] inside forward"
_GIVE_ROWS = "give conditioning inputs as they come in use, several rows of each (--cond NAME=FILE.npy)"


@contextlib.contextmanager
def _failing(where: str, advice: str) -> Iterator[None]:
    """Says of the model's own error, whatever it is, where it came and what to do about it."""
    try:
        yield
    except EbmExportError:
        raise  # an operation of the model's file that cannot be run
    except Exception as error:
        raise ContractError(f"{where}: {type(error).__name__}: {_line(error)}; {advice}") from error


def _call_at_start(
    energy: Energy, module: nn.Module, example: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]
) -> Any:
    """The output for the rows of a check; the example's own as many times tell a batch that does not fit from numbers that do not."""
    try:
        return module(*_refinable(rows))
    except Exception:
        with _failing(
            f"the model runs at the example's batch of {energy.x.shape[0]} and fails at a batch of {_BATCH}", _TAKE_SIZE
        ):
            module(*_refinable([value[torch.arange(_BATCH) % len(value)] for value in example]))
        start = energy.sampler.init if energy.sampler is not None else "normal"
        with _failing(
            f"the model runs on the example and fails where chains start ({start})",
            f"check the range of the inputs (bounds, init){energy.made_up}",
        ):
            raise


def _sparse_hint(module: nn.Module, said: str) -> str:
    """That forward is called with dense matrices in the place of sparse ones, where its error speaks of these; else empty."""
    found = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if is_sparse(value)]
    if not found or not any(word in said.lower() for word in ("sparse", "layout", "strided")):
        return ""
    return f"; sparse matrices ({', '.join(found)}) are dense in an export, which forward must take too"


_ON_A_GPU = ("'CUDA' backend", "compiled with CUDA", "NVIDIA driver", "CUDA GPUs", "cuda:")
"""Phrases of PyTorch's errors about tensors that forward makes on a GPU, with one in the machine and without."""


def _double_hint(said: str) -> str:
    """That the copy is float32 where the model need not be, if its error is about the two types; else empty."""
    if not all(re.search(rf"\b{name}\b", said, re.IGNORECASE) for name in ("float", "double")):
        return ""
    return (
        "; an export runs a copy whose parameters and buffers are float32, as x is: have forward follow the type of x (k.to(x.dtype)) in the "
        "place of asking for float64, and keep its tensors as buffers (register_buffer)"
    )


def _type_hint(energy: Energy, said: str) -> str:
    """How to give a condition the type of a label or a mask, where the model's error asks for one of these; else empty."""
    wanted = next((dtype for words, dtype in _WANTED_TYPES if any(word in said for word in words)), None)
    floats = [name for name in energy.cond if energy.cond[name].is_floating_point()]
    if wanted is None or not floats:
        return ""
    options = [f"--cond {name}:{wanted}={','.join(map(str, energy.cond[name].shape[1:]))}" for name in floats]
    what = "labels or other whole numbers" if wanted == "int64" else "a mask"
    return (
        f"; {' and '.join(map(repr, floats))} came as floating point: if it holds {what}, give it as {wanted} "
        f"({' or '.join(options)} on the command line)"
    )


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
        raise ContractError(f"the model returns {_dtype(output)}; expected {expected} in floating point")
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
        raise ContractError(f"the gradient of the energy fails: {type(error).__name__}: {_line(error)}") from error
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


def _energies(
    module: nn.Module, rows: Sequence[torch.Tensor], reduce: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    output = module(*_refinable(rows))
    return (reduce(output) if reduce is not None else output).detach()  # type: ignore[no-any-return]


def _gap(first: torch.Tensor, second: torch.Tensor, largest: float = 0.0) -> str:
    """Describes the largest difference, or is empty where there is none beyond rounding; NaN equals NaN here."""
    difference = (first - second).abs().nan_to_num(nan=0.0)
    allowed = _ROUNDING * max(largest, _largest(first))
    if not difference.numel() or float(difference.max()) <= allowed:
        return ""
    place = int(difference.flatten().argmax())
    return f"{first.flatten()[place].item():.6g} and {second.flatten()[place].item():.6g}"


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().nan_to_num(0.0, 0.0, 0.0).max()) if values.numel() else 0.0


def _others_changed(value: torch.Tensor, kept: int) -> torch.Tensor:
    """Rows of which one stays; the others change places, and each number moves within the range that it has among them."""
    changed = value.flip(0)
    if value.is_floating_point():
        changed = conditions_like(changed, 2 * len(value), seed=3)[len(value) :]
        low, high = value.amin(0), value.amax(0)
        if bool((low < high).any()):  # one may be a place in a table, and another a length
            changed = changed.clamp(low, high)
    changed[kept] = value[kept]
    return changed


_MODES = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


def _training_hint(module: nn.Module, otherwise: str) -> str:
    """Names what is in training mode, or says where else to look."""
    named = [(path, child) for path, child in module.named_modules() if child.training]
    kinds = [(path, child) for path, child in named if isinstance(child, _MODES)]
    if not named:
        return otherwise
    listed = ", ".join(f"{path or 'the model'} ({type(child).__name__})" for path, child in (kinds or named)[:4])
    more = len(kinds or named) - 4
    tail = f" and {more} more" if more > 0 else ""
    return f"{listed}{tail} in training mode; call model.eval() before exporting"


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
