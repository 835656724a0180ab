"""What an installation with the extra `export` alone can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_NOT_THERE = ("scipy", "sklearn", "arviz_stats", "jinja2", "PIL", "openvino", "tensorrt", "tensorrt_rtx", "cuda")


def in_a_lean_installation(code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in which the packages of the other extras are missing."""
    before = (
        f"import sys\nfor name in {_NOT_THERE}: sys.modules[name] = None\n"  # None: as if it were not installed
        "import torch\nfrom ebm_export.exporter import export\nfrom ebm_export.runtime import load\n"
        "net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)).eval()\n"
    )
    return subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True)


def without(package: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in which one package is missing."""
    before = f"import sys\nsys.modules[{package!r}] = None\n"
    return subprocess.run([sys.executable, "-c", before + code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("package", ["torch", "onnx_ir"])
def test_an_installation_for_the_device_says_what_exporting_needs(package: str) -> None:
    said = f"ebm-export needs the package {package}: pip install 'ebm-export[export]' (the device needs only ebm-run)\n"
    done = without(package, "from ebm_export.cli import ebm_export; ebm_export()", "model.pt2")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", f"error: {said}")
    done = without(package, "try: import ebm_export.exporter\nexcept ImportError as error: print(error)")
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_what_needs_no_gate_is_exported_and_runs(tmp_path: Path) -> None:
    done = in_a_lean_installation(
        "path = export(net, torch.randn(4, 3), targets=['onnx', 'onnxruntime'], precisions=['fp32', 'fp16', 'int8'], gate=None, fuse=4, "
        f"sampler=dict(steps=8, step_size=0.1), out={str(tmp_path / 'net.ebm')!r})\n"
        "with load(path) as ebm: print(ebm.sample(2).shape)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 3)\n"


def test_the_gate_says_before_any_work_what_it_needs(tmp_path: Path) -> None:
    done = in_a_lean_installation(
        f"try: export(net, torch.randn(4, 3), precisions=['int8'], out={str(tmp_path / 'net.ebm')!r}, "
        "progress=lambda what, done, total: sys.exit(what))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MissingBackend comparing samples needs the package scipy: pip install")
    assert not list(tmp_path.iterdir())
