"""Where in the user's source an operation of a TorchScript graph is from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch.fx.traceback as fx_traceback

from .scripted_instruction import Instruction

__all__ = ["path_of", "place_of", "shown"]

_PYTHON_PLACE = re.compile(r"^\s*(?P<file>[^\s:()]+\.py)[:(](?P<line>\d+)", re.MULTILINE)
_SOURCE_PLACE = re.compile(r'File "(?P<file>[^"]+\.py)", line (?P<line>\d+)')


def place_of(node: Any) -> str:
    """Where the model's own source says the node is from."""
    text = node.sourceRange()
    for pattern in (_SOURCE_PLACE, _PYTHON_PLACE):
        for found in pattern.finditer(text):
            if not found["file"].startswith("code/") and "/torch/" not in found["file"]:
                return f'File "{found["file"]}", line {found["line"]}, in forward'
    return ""


def path_of(node: Any) -> str:
    """Dotted path of the module that the node was recorded in, "" where the graph does not say."""
    scope = node.scopeName().rpartition("/")[2]
    return str(scope.removeprefix("__module.").removeprefix("__module"))


@contextlib.contextmanager
def shown(instruction: Instruction) -> Iterator[None]:
    """Tells a tracer which module and line the operation is from, as fx does for graphs of its own."""
    if not fx_traceback.has_preserved_node_meta() or instruction.run is None:
        yield
        return
    meta = fx_traceback.current_meta
    keys = ("nn_module_stack", "stack_trace")
    before: dict[str, Any] = {key: meta[key] for key in keys if key in meta}
    meta["nn_module_stack"] = {instruction.path: (instruction.path, "")}
    meta["stack_trace"] = instruction.place
    try:
        yield
    finally:
        for key in keys:
            meta.pop(key, None)
        meta.update(before)
