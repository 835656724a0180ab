"""Reads the .npy files that users give."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["read_array"]


def read_array(path: str | Path) -> np.ndarray:
    """Reads a .npy file, which is never unpickled.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no .npy file, or a damaged one. np.load raises errors of many kinds there, as it looks for archives too.
    """
    with Path(path).open("rb") as file:
        try:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a header can be damaged in every way that a Python literal can
            raise ValueError(str(error) or type(error).__name__) from error
    return array
