"""Builds emulator.cpp, which runs the CUDA kernels on a CPU, and calls it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

import ebm_export.runtime.cuda
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.cuda.settings import THREADS, Loop, loop_settings
from ebm_export.runtime.ziggurat import ziggurat_tables

SOURCES = Path(ebm_export.runtime.cuda.__file__).parent
FIRST, LAST, SHUFFLED = 0, 1, 2
"""Orders in which the threads of a block run: first thread first, last first, shuffled."""


class Emulator:
    """The kernels of kernels.cu, each launch run at once."""

    def __init__(self, folder: Path) -> None:
        library = folder / "emulator.so"
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        # Products and sums are rounded apart, as with NVRTC's --fmad=false. The fibers' returns look like longjmp's.
        command += ["-ffp-contract=off", "-Wno-clobbered"]
        # The kernels' names are C names, and libc has an `advance` of its own.
        command += ["-Wl,-Bsymbolic", "-I", str(SOURCES), "-o", str(library)]
        subprocess.run([*command, str(Path(__file__).with_name("emulator.cpp"))], check=True)
        self.library = ctypes.CDLL(str(library))
        for name in ("confined_to", "factor_of"):
            getattr(self.library, name).restype = ctypes.c_float
        for name in ("size_of_loop", "size_of_tables", "offset_of"):
            getattr(self.library, name).restype = ctypes.c_size_t
        self.order = FIRST

    def launch(self, name: str, blocks: int, loop: int, *numbers: int, threads: int = THREADS) -> None:
        """Runs one kernel on the `Loop` at an address."""
        arguments = [ctypes.c_uint64(loop), *map(ctypes.c_int32, numbers)]
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        status = self.library.emulate(name.encode(), blocks, threads, addresses, self.order)
        assert status == 0, {1: "no such kernel", 2: "threads end while others wait at a barrier"}[status]


class Memory:
    """A `Loop` over numpy arrays, for kernels launched one by one."""

    def __init__(self, config: SamplerConfig, position: np.ndarray, **arrays: Any) -> None:
        rows, size = len(position), position[0].size
        self.loop: Loop = loop_settings(config, rows, size)
        self.arrays = {
            "position": np.array(position, np.float32),
            "grad": np.zeros_like(position),
            "energy": np.zeros(rows, np.float32),
            "scale": np.ones(rows, np.float32),
            "answer_scale": np.ones(rows, np.float32),
            "factor": np.ones(rows, np.float32),
            "noise": np.full_like(position, np.nan),
            "lost": np.full(rows, -1, np.int32),
            "lost_count": np.zeros(1, np.int32),
            "told": np.full(1, -1, np.int32),
            "step_size": np.full(config.steps, 0.1, np.float32),
            "sigma": np.ones(config.steps, np.float32),
            "tables": ziggurat_tables(),
        }
        for name, array in arrays.items():
            self.arrays[name] = np.ascontiguousarray(array)
        for name, array in self.arrays.items():
            setattr(self.loop, name, array.ctypes.data)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def address(self) -> int:
        return ctypes.addressof(self.loop)
