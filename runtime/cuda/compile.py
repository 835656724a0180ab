"""Compiles the CUDA sources of this folder with NVRTC, which needs no GPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..errors import EbmExportError, MissingBackend

__all__ = ["compile_kernels"]

_FOLDER = Path(__file__).parent
_SOURCE = "kernels.cu"
_HEADERS = (
    "gradient.cuh",
    "langevin.cuh",
    "loop.cuh",
    "noise.cuh",
    "optimize.cuh",
    "preconditioned.cuh",
    "underdamped.cuh",
    "update.cuh",
)
# A product and a sum stay two roundings, as in numpy, so that a step gives the same bits as on the host.
_OPTIONS = ("--std=c++17", "--fmad=false")
_MISSING = (
    "CUDA sources are compiled with NVRTC, which is not here: pip install 'ebm-export[cuda]', or JetPack's CUDA toolkit"
)


def compile_kernels(architecture: str) -> tuple[bytes, str]:
    """Compiles the kernels for one kind of GPU.

    Args:
        architecture: such as "sm_87" for an Orin, "sm_110" for a Thor.

    Returns:
        The cubin, and what the compiler has to say: nothing, where all is well.

    Raises:
        MissingBackend: cuda-python or NVRTC is not installed.
        EbmExportError: NVRTC does not know the architecture, or refuses the source.
    """
    nvrtc = _import_nvrtc()
    status, program = nvrtc.nvrtcCreateProgram(
        (_FOLDER / _SOURCE).read_bytes(),
        _SOURCE.encode(),
        len(_HEADERS),
        [(_FOLDER / header).read_bytes() for header in _HEADERS],
        [header.encode() for header in _HEADERS],
    )
    _check(nvrtc, "nvrtcCreateProgram", status)
    try:
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *_OPTIONS)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _read(nvrtc, program, "ProgramLog").rstrip(b"\0\n").decode(errors="replace")
        if int(status) != 0:
            raise EbmExportError(
                f"NVRTC {'.'.join(map(str, nvrtc.nvrtcVersion()[1:]))} does not compile {_SOURCE} for {architecture}: "
                f"{log or _text(nvrtc, status)}"
            )
        return _read(nvrtc, program, "CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _import_nvrtc() -> Any:
    """NVRTC's module of cuda-python, with its library found."""
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        nvrtc.nvrtcVersion()  # the library is looked for at the first call
    except (ImportError, RuntimeError) as error:  # cuda-python's own error for a missing library is a RuntimeError
        raise MissingBackend(f"{_MISSING} ({str(error).splitlines()[0]})") from error
    return nvrtc


def _read(nvrtc: Any, program: Any, what: str) -> bytes:
    """Reads one of the compiler's results."""
    status, size = getattr(nvrtc, f"nvrtcGet{what}Size")(program)
    _check(nvrtc, f"nvrtcGet{what}Size", status)
    # cuda-python writes into it, so nobody else may have it: bytes of length 1, which an empty log has, are shared by all of Python.
    result = bytes(size + 1)
    (status,) = getattr(nvrtc, f"nvrtcGet{what}")(program, result)
    _check(nvrtc, f"nvrtcGet{what}", status)
    return result[:size]


def _check(nvrtc: Any, function: str, status: Any) -> None:
    if int(status) != 0:
        raise EbmExportError(f"{function} failed: {_text(nvrtc, status)}")


def _text(nvrtc: Any, status: Any) -> str:
    return str(nvrtc.nvrtcGetErrorString(status)[1].decode())
