"""The compiled kernels on the GPU, ready to be launched."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

from ..errors import EbmExportError
from .compile import compile_kernels
from .settings import THREADS

__all__ = ["KERNELS", "Kernels", "load_kernels"]

KERNELS = ("draw", "move", "descend", "glide", "kick", "stride", "settle", "measure", "advance")


class Kernels:
    """Kernels of a cubin in the current context.

    Args:
        driver: `cuda.bindings.driver`.
        cubin: what `compile_kernels` returned.

    Raises:
        EbmExportError: the driver does not load it.
    """

    def __init__(self, driver: Any, cubin: bytes) -> None:
        self._driver = driver
        self._module = self._call("cuModuleLoadData", cubin)
        self._functions = {name: self._call("cuModuleGetFunction", self._module, name.encode()) for name in KERNELS}

    def launch(self, name: str, blocks: int, stream: int, *arguments: Any) -> None:
        """Puts one kernel into a stream.

        Args:
            name: one of `KERNELS`.
            blocks: number of thread blocks, of `THREADS` threads each.
            stream: handle of the stream.
            *arguments: the kernel's arguments as ctypes numbers; they are copied.
        """
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._call(
            "cuLaunchKernel",
            self._functions[name],
            *(blocks, 1, 1),
            *(THREADS if name != "advance" else 1, 1, 1),
            0,
            self._driver.CUstream(stream),
            ctypes.addressof(addresses),
            0,
        )

    def close(self) -> None:
        """Unloads them; safe to call twice."""
        if self._module is not None:
            self._driver.cuModuleUnload(self._module)
            self._module = None

    def _call(self, function: str, *arguments: Any) -> Any:
        """Calls the driver, which returns (error, result) or (error,)."""
        status, *result = getattr(self._driver, function)(*arguments)
        if int(status) != 0:
            text = self._driver.cuGetErrorString(status)[1]
            raise EbmExportError(f"{function} failed: {text.decode() if isinstance(text, bytes) else text}")
        return result[0] if result else None


def load_kernels(call: Callable[..., Any], cuda: Any) -> Kernels:
    """Compiles the kernels for GPU 0 and loads them.

    Args:
        call: calls a function of the CUDA runtime by its name and raises its errors.
        cuda: `cuda.bindings.runtime`, for its constants.

    Raises:
        MissingBackend: NVRTC is not installed.
        EbmExportError: NVRTC does not know this GPU, or the driver does not take what it made.
    """
    call("cudaSetDevice", 0)  # the driver's calls need a current context, which a thread has after this
    major, minor = (
        call("cudaDeviceGetAttribute", getattr(cuda.cudaDeviceAttr, f"cudaDevAttrComputeCapability{part}"), 0)
        for part in ("Major", "Minor")
    )
    cubin, _ = compile_kernels(f"sm_{major}{minor}")
    return Kernels(importlib.import_module("cuda.bindings.driver"), cubin)
