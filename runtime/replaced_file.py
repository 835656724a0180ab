"""A file that is written as a whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .partial_file import partial_of

__all__ = ["replacing", "write_npy"]


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """Gives a file to write into, which takes the place of `path` when the block ends without an error, and is on disk then.

    Where it is soon replaced again it need not be on disk, which a slow one takes a tenth of a second for: without `synced` a process
    that is killed leaves the old file or the new one all the same, and only a machine that loses its power may leave neither. Nor does
    it look then for what killed processes left, which the last one, `synced`, does.

    It stands beside `path` and is removed after an error, which leaves what was at `path`. What is no plain file (/dev/stdout), and
    a file in a folder that takes no others, is written in place.

    Raises:
        OSError: it cannot be written, with the name of `path`.
    """
    if path.is_symlink() and (path.is_file() or not path.exists()):
        path = path.resolve()  # a link stays one
    plain = (path.is_file() or not path.exists()) and os.access(path.parent, os.W_OK)
    with partial_of(path, tidy=synced) if plain else nullcontext(path) as written:
        try:
            with written.open("wb") as file:
                yield file
                if plain:
                    if path.exists() and hasattr(
                        os, "fchmod"
                    ):  # whoever may read it stays the same; on Windows from Python 3.13 on
                        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                    file.flush()
                    if synced:
                        os.fsync(file.fileno())
            if plain:
                written.replace(path)
        except OSError as error:
            if error.filename in (None, str(written)):
                error.filename = str(path)  # a write that fails does not say where
            raise


def write_npy(file: BinaryIO, array: np.ndarray) -> None:
    """Writes what np.save would, which cannot say why it fails: it writes past Python and loses the system's error."""
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))  # type: ignore[no-untyped-call]
    file.write(array.data)
