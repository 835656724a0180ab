"""Checks a torch.export archive before PyTorch reads it.

`torch.export.load` unpickles parts of an archive without restriction and evaluates its size expressions as Python. A
model file must not be able to run code here, so what could is looked for first.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import LoadError
from .reaching_out import reaches_out

__all__ = ["check_archive", "restricted_unpickling"]

_EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=~&|!]*")
_NAME = re.compile(r"[A-Za-z_]\w*")
_TARGET = re.compile(r"torch\.ops\.[a-z]\w*\.\w+(\.\w+)?|_operator\.[a-z_]+|math\.[a-z]+|torch\._?sym_[a-z]+")


def check_archive(content: bytes, path: Path) -> None:
    """Looks at the text parts of an archive.

    The parts are read with the reader that loads them, so that both see the same file.

    Args:
        content: the archive.
        path: its name, for messages.

    Raises:
        LoadError: the archive has objects beside tensors, calls something that is no operation, or has a size
            expression that is not arithmetic.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    for name in reader.get_all_records():
        if name.startswith("data/") and name.endswith("_config.json"):
            for key, entry in json.loads(reader.get_record(name))["config"].items():
                kind = str(entry["path_name"])
                if not kind.startswith(("tensor_", "weight_")):
                    raise LoadError(
                        f"{path}: the archive holds an object beside its tensors ({key!r} in {kind}); reading it means "
                        "unpickling, which can run code: export a model of tensors alone, or, if you trust the file, "
                        "allow it (--trust-pickle)"
                    )
        elif name.startswith("models/"):
            _check_text(path, json.loads(reader.get_record(name)))


def _check_text(path: Path, value: Any) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "expr_str" and not _is_arithmetic(str(entry)):
                raise LoadError(f"{path}: a size in the archive is no arithmetic expression: {entry!r}")
            # An operation can be an argument of another one, which calls it.
            called = key == "as_operator" or (key == "target" and "inputs" in value)
            if called and not _TARGET.fullmatch(str(entry)):
                raise LoadError(f"{path}: the archive calls {entry!r}, which is no operation of PyTorch")
            if called and reaches_out(str(entry).removeprefix("torch.ops.")):
                raise LoadError(f"{path}: the archive calls {entry!r}, which does more than compute")
            _check_text(path, entry)
    elif isinstance(value, list):
        for entry in value:
            _check_text(path, entry)


_ARITHMETIC = {"Max", "Min", "Mod", "Abs", "max", "min", "abs", "floor", "ceiling", "True", "False", "None", "oo"}


def _is_arithmetic(text: str) -> bool:
    """Symbols, numbers and the functions that PyTorch's size expressions use: nothing that Python's own names reach."""
    text = re.sub(r"'\w+'", "", text)  # Symbol('s77', integer=True)
    if not _EXPRESSION.fullmatch(text) or re.search(r"\.\s*[A-Za-z_]|__", text):
        return False
    return all(name in _ARITHMETIC or not hasattr(builtins, name) for name in _NAME.findall(text))


@contextlib.contextmanager
def restricted_unpickling() -> Iterator[None]:
    """Within it every `torch.load` reads tensors and plain containers alone, whatever its caller asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
