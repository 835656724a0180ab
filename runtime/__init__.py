"""Loads bundles and samples from them. Needs numpy and one engine; no torch, no onnx."""

from __future__ import annotations

from .backends.function import FunctionEngine
from .bundle import Bundle
from .config import SamplerConfig
from .ebm import Ebm
from .engine import Engine
from .errors import (
    DivergenceError,
    EbmExportError,
    EngineMismatch,
    LoadError,
    MissingBackend,
    UsageError,
)
from .loading import load

__all__ = [
    "Bundle",
    "DivergenceError",
    "Ebm",
    "EbmExportError",
    "Engine",
    "EngineMismatch",
    "FunctionEngine",
    "LoadError",
    "MissingBackend",
    "SamplerConfig",
    "UsageError",
    "load",
]
