"""Operations of PyTorch that do more than compute, which a model file may not call."""

from __future__ import annotations

import re

__all__ = ["reaches_out", "script_reaches_out"]

_FILES = frozenset({"aten::from_file", "aten::save"})
"""They read and write files, whose names stand in the graph."""
_SPACES = frozenset(
    [
        "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "c10d", "debug_mode_ops", "debugprims", "inductor",
        "inductor_prims", "profiler", "rngprims", "static_runtime", "symm_mem",
    ]
)  # fmt: skip
"""PyTorch's own for other processes, files of its debugger, callbacks, and memory that nobody checks the bounds of."""


def reaches_out(operation: str) -> bool:
    """Says whether an operation, "aten::add" or "aten.add", reaches files, processes or memory that is not its own."""
    space, _, name = operation.replace("::", ".").partition(".")
    return space in _SPACES or f"{space}::{name.partition('.')[0]}" in _FILES


_IN_SCRIPT = re.compile(r"\b(torch|ops)((?:\.\w+)+)")


def script_reaches_out(code: str) -> str | None:
    """Returns the first such operation in the source text of a TorchScript file; None where there is none."""
    for place in _IN_SCRIPT.finditer(code):
        space, name = place[1], place[2].removeprefix(".")
        if reaches_out(f"aten.{name}" if space == "torch" else name):
            return place[0]
    return None
