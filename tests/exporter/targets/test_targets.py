"""The table of targets."""

from __future__ import annotations

import inspect

import pytest

from ebm_export.exporter.targets import TARGETS, target
from ebm_export.runtime.errors import UsageError


def test_every_target_has_the_same_two_functions() -> None:
    for name, module in TARGETS.items():
        assert target(name) is module
        assert list(inspect.signature(module.available).parameters) == []
        names = list(inspect.signature(module.write).parameters)
        assert names[:6] == ["graph", "folder", "precision", "batch", "role", "progress"]


def test_unknown_target() -> None:
    with pytest.raises(UsageError, match="the targets are onnx, onnxruntime, openvino, tensorrt; .* 'coreml'"):
        target("coreml")
