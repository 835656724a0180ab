"""The runtime stands alone: what it imports, and how long that takes."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ebm_export.runtime
from ebm_export.runtime import errors

FOLDER = Path(ebm_export.runtime.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))
HEAVY = {"torch", "onnx", "onnx_ir", "typer", "rich", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "scipy"}


@pytest.mark.native
def test_a_fresh_interpreter_imports_it_without_torch_or_engines_and_fast() -> None:
    script = (
        "import sys, time\n"
        "begun = time.process_time()\n"
        "import numpy\n"
        "between = time.process_time()\n"
        "import ebm_export.runtime\n"
        "print(between - begun, time.process_time() - between, *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    # The best of three: the disk's cache and other work on the machine are not what is measured.
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in "123"]
    outputs = [run.stdout.split() for run in runs]
    # numpy tells how fast the machine is: with it half a second is the budget where it takes an eighth of one, as long as the rest.
    numpy, own = (min(float(output[place]) for output in outputs) for place in (0, 1))
    assert own < 3 * numpy
    assert not HEAVY & set(outputs[0][2:])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(FOLDER)))
def test_imports_point_nowhere_but_the_runtime(source: Path) -> None:
    depth = len(source.relative_to(FOLDER).parts)  # dots that still stay within the runtime
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= depth, f"line {node.lineno} imports from outside the runtime"
            assert node.level or not (node.module or "").startswith("ebm_export"), f"line {node.lineno} is not relative"
    for node in tree.body:  # what runs at import time
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                package = name.split(".")[0]
                assert package == "numpy" or package in sys.stdlib_module_names, f"line {node.lineno} imports {name}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(FOLDER)))
def test_public_names_are_in_all(source: Path) -> None:
    parts = source.relative_to(FOLDER).with_suffix("").parts
    module = importlib.import_module(".".join(["ebm_export.runtime", *(part for part in parts if part != "__init__")]))
    public = {
        node.name
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    listed = set(getattr(module, "__all__", ()))
    assert public <= listed
    assert all(hasattr(module, name) for name in listed)


def test_every_error_of_the_runtime_is_drawn_in_one_tree() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.EbmExportError)
