"""NVRTC takes the sources, for the GPUs that bundles are meant for; it needs none of them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ebm_export.runtime.cuda import compile as compilation
from ebm_export.runtime.cuda.compile import compile_kernels
from ebm_export.runtime.cuda.kernels import KERNELS
from ebm_export.runtime.errors import EbmExportError, MissingBackend

SHARED_MEMORY = 48 * 1024  # of a thread block, on every GPU


def sections(cubin: bytes) -> dict[str, int]:
    """Names and sizes of the sections of an ELF file of 64 bits."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    entry, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + index * entry) for index in range(count)]
    start = headers[names][4]
    return {cubin[start + header[0] : cubin.index(b"\0", start + header[0])].decode(): header[5] for header in headers}


# Orin, H100, Thor.
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90", "sm_110"])
def test_every_kernel_compiles_without_a_warning(architecture: str) -> None:
    cubin, log = compile_kernels(architecture)
    assert log == ""
    assert cubin[:4] == b"\x7fELF"
    held = sections(cubin)
    for name in KERNELS:
        assert held[f".text.{name}"] > 0
    shared = {name: size for name, size in held.items() if name.startswith(".nv.shared.")}
    assert 0 < shared[".nv.shared.draw"] < SHARED_MEMORY
    assert all(size < SHARED_MEMORY for size in shared.values())


def test_the_log_is_not_written_over_a_byte_of_pythons(tmp_path: Any) -> None:
    # In a process that compiles its modules itself: a literal of one byte is then the object that Python keeps for that byte.
    code = "from ebm_export.runtime.cuda.compile import compile_kernels; compile_kernels('sm_87'); print(bytes([32]))"
    fresh = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=fresh)
    assert answer.stdout.strip() == str(b" ")


def test_a_gpu_that_nvrtc_does_not_know() -> None:
    with pytest.raises(EbmExportError, match=r"NVRTC \d+\.\d+ does not compile kernels\.cu for sm_20: .*architecture"):
        compile_kernels("sm_20")


def test_a_fault_in_the_source_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for path in (*compilation._FOLDER.glob("*.cu"), *compilation._FOLDER.glob("*.cuh")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "update.cuh").write_text("no C at all\n")
    monkeypatch.setattr(compilation, "_FOLDER", tmp_path)
    with pytest.raises(EbmExportError, match=r"for sm_90: update\.cuh\(1\): error"):
        compile_kernels("sm_90")


def test_a_warning_reaches_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for path in (*compilation._FOLDER.glob("*.cu"), *compilation._FOLDER.glob("*.cuh")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "kernels.cu").open("a") as source:
        source.write("__global__ void nothing() { int unused_number; }\n")
    monkeypatch.setattr(compilation, "_FOLDER", tmp_path)
    assert "unused_number" in compile_kernels("sm_90")[1]


def test_no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise RuntimeError("no libnvrtc.so.13\nanywhere")

    monkeypatch.setattr(compilation.importlib, "import_module", lambda name: SimpleNamespace(nvrtcVersion=missing))
    with pytest.raises(MissingBackend, match=r"pip install 'ebm-export\[cuda\]'.*\(no libnvrtc.so.13\)"):
        compile_kernels("sm_87")


def test_no_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(compilation.importlib, "import_module", missing)
    with pytest.raises(MissingBackend, match="No module named 'cuda.bindings.nvrtc'"):
        compile_kernels("sm_87")
