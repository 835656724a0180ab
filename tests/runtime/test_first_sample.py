"""What a device pays before its first sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .tiny_bundle import write_bundle

CODE = """
import json, sys
from ebm_export.runtime import load
with load(sys.argv[1], backend="onnxruntime", threads=1) as ebm:
    ebm.sample(1, 0)
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(json.dumps({"peak": peak / 1024, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@pytest.mark.native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_and_modules(tmp_path: Path) -> None:
    """120 MB is the budget with a network; this one has no weights, so it has to stay 20 MB below."""
    path = write_bundle(tmp_path / "m.ebm")
    told = subprocess.run([sys.executable, "-c", CODE, str(path)], capture_output=True, text=True, check=True)
    found = json.loads(told.stdout)
    assert found["peak"] < 100
    heavy = {"torch", "openvino", "onnx", "onnx_ir", "scipy", "sklearn", "typer", "rich", "tensorrt", "tensorrt_rtx"}
    assert not heavy & set(found["modules"])
