"""Whether an energy is a function of its own sample: the same at each call, and in any company."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..runtime.errors import ContractError
from .model_errors import TAKE_SIZE, failing
from .more_rows import conditions_like

__all__ = ["check_independence", "check_repeatability", "refinable"]

_ROUNDING = 1e-4
"""Difference of two energies that counts as rounding, relative to the largest energy of the batch. Other batch sizes
make other sums of float32, which differ by some 1e-6; a batch norm in training mode or a dropout changes more."""

_GIVE_ROWS = "give conditioning inputs as they come in use, several rows of each (--cond NAME=FILE.npy)"


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
    with failing("the model fails when it is called again with the same inputs", "forward changes its own state"):
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
        with failing("the model fails at other rows in the range of those that it ran on", _GIVE_ROWS):
            after = _energies(module, changed, reduce)
        gap = _gap(before[kept : kept + 1], after[kept : kept + 1], _largest(before))
        if gap:
            raise ContractError(
                f"the energy of sample {kept} changes with the other samples of its batch ({gap}); expected it to "
                "depend on its own sample alone: "
                + _training_hint(
                    module,
                    "look for a mean, norm or softmax over dimension 0 in forward, "
                    "and for tensors of different rank that broadcast over it, such as [B, C, H, W] - [B, H, W]",
                )
            )
    try:
        with failing(f"the model runs at a batch of {size} and fails at a batch of {size - 1}", TAKE_SIZE):
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


def refinable(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The inputs as a sampler has them: a model may take a gradient by its input inside forward."""
    return [v.detach().clone().requires_grad_() if v.is_floating_point() else v for v in inputs]


def _energies(
    module: nn.Module, rows: Sequence[torch.Tensor], reduce: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    output = module(*refinable(rows))
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
