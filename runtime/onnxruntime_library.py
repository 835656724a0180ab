"""The one module that imports onnxruntime, and keeps it from reporting.

The library (1.32) reports how it is used, and keeps an identifier of the device and a database for that in the user's cache folder
from its import on. A device reports to nobody unless its owner asks for it, by setting ORT_DISABLE_TELEMETRY to 0.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from .errors import MissingBackend

__all__ = ["import_onnxruntime"]


def import_onnxruntime() -> ModuleType:
    """Imports the library.

    Raises:
        MissingBackend: it is not installed. One that is installed and broken shows its own error.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingBackend("the package onnxruntime is not installed: pip install onnxruntime") from error
