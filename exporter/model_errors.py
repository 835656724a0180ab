"""What a model's own errors are said as, and what to do about them."""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..runtime.errors import ContractError, EbmExportError
from .sparse import is_sparse

if TYPE_CHECKING:
    from .energy import Energy

__all__ = ["TAKE_SIZE", "dtype_name", "failing", "first_line", "place_of", "why_it_fails"]

_NOT_THE_USERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}", "<")
"""How the files begin whose lines tell nothing about a model: PyTorch, this package, code made at run time."""

TAKE_SIZE = "take the batch size from x.shape[0] inside forward"
"""What to do about a model that runs at one batch size alone."""

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

_ON_A_GPU = ("'CUDA' backend", "compiled with CUDA", "NVIDIA driver", "CUDA GPUs", "cuda:")
"""Phrases of PyTorch's errors about tensors that forward makes on a GPU, with one in the machine and without."""


@contextlib.contextmanager
def failing(where: str, advice: str) -> Iterator[None]:
    """Says of the model's own error, whatever it is, where it came and what to do about it."""
    try:
        yield
    except EbmExportError:
        raise  # an operation of the model's file that cannot be run
    except Exception as error:
        raise ContractError(f"{where}: {type(error).__name__}: {first_line(error)}; {advice}") from error


def why_it_fails(energy: Energy, inputs: Sequence[torch.Tensor], error: Exception) -> ContractError:
    """What a model's error on its example is said as.

    Args:
        energy: the model.
        inputs: those that it was called with.
        error: its own, whatever it is.
    """
    said = first_line(error)
    if "Inference tensors cannot be saved" in str(error):
        return ContractError(
            "forward uses a tensor that was made in torch.inference_mode(), which autograd cannot follow; make it "
            "under torch.no_grad() instead, or clone it outside of inference mode"
        )
    if any(phrase in said for phrase in _ON_A_GPU):
        return ContractError(
            f"the model makes tensors on a GPU, and an export runs its copy on the CPU ({said.partition('. ')[0]}): make them "
            "where x is (device=x.device); a torch.export archive or TorchScript file keeps the device that it was written on, so "
            "write it again from model.cpu()"
        )
    shapes = ", ".join(f"{tuple(value.shape)} {dtype_name(value)}" for value in inputs)
    return ContractError(
        f"the model fails on the example ({shapes}): {type(error).__name__}: {said}"
        f"{_type_hint(energy, said)}{_sparse_hint(energy.module, said)}{_double_hint(said)}{_shape_hint(energy, said)}"
    )


def dtype_name(value: torch.Tensor) -> str:
    """A tensor's type as PyTorch calls it, without its module."""
    return str(value.dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """What an error says first, on one line; where it stands, if it says nothing (an assert)."""
    return next(iter(str(error).strip().splitlines()), f"no message{place_of(error)}")


def place_of(error: BaseException) -> str:
    """` at file.py:12 (source line)`, the innermost line outside torch and this package; empty where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    found = next((frame for frame in reversed(frames) if not frame.filename.startswith(_NOT_THE_USERS)), None)
    return f" at {Path(found.filename).name}:{found.lineno} ({found.line})" if found else ""


def _shape_hint(energy: Energy, said: str) -> str:
    """What the example's shape should be, where the model's error is about shapes; else empty."""
    if (
        not re.search(r"\b(shapes?|sizes?|channels|not enough values to unpack)\b|Dimension out of range", said)
        or "memory" in said
    ):
        return ""
    return f"; the example is a batch of samples, [B, *S], and the shape that is given as S (--shape) is that of one{energy.made_up}"


def _sparse_hint(module: nn.Module, said: str) -> str:
    """That forward is called with dense matrices in the place of sparse ones, where its error speaks of these; else empty."""
    found = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if is_sparse(value)]
    if not found or not any(word in said.lower() for word in ("sparse", "layout", "strided")):
        return ""
    return f"; sparse matrices ({', '.join(found)}) are dense in an export, which forward must take too"


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
