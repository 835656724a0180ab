"""Reads the files of arrays that users give."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .errors import UsageError

__all__ = ["read_array", "read_given_array", "read_given_energies"]


def read_array(path: str | Path, *, mapped: bool = False) -> np.ndarray:
    """Reads a .npy file, which is never unpickled.

    Args:
        path: the file.
        mapped: the array is the file, of which no more comes into memory than is asked for; what is written to the array stays in
            memory.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no .npy file, or a damaged one. np.load raises errors of many kinds there, as it looks for archives too.
    """
    array: np.ndarray
    try:
        if mapped:
            # Not "r": torch warns of arrays that cannot be written to.
            return np.asarray(np.lib.format.open_memmap(path, mode="c"))  # type: ignore[no-untyped-call]
        with Path(path).open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a header can be damaged in every way that a Python literal can
        raise ValueError(str(error) or type(error).__name__) from error
    return array


def read_given_array(path: str | Path, option: str = "", *, mapped: bool = False) -> np.ndarray:
    """As `read_array`, for a file that a user named.

    Args:
        path: the file.
        option: that named it, for the error; "" where the name alone says enough.
        mapped: as there, for a file that may be larger than the memory.

    Raises:
        UsageError: there is no such file, or it cannot be read.
    """
    where = f"{option}: " if option else ""
    try:
        return read_array(path, mapped=mapped)
    except FileNotFoundError as error:
        raise UsageError(f"{where}there is no file {path}") from error
    except OSError as error:
        why = (
            "is a folder; expected a .npy file" if Path(path).is_dir() else f"cannot be read: {error.strerror or error}"
        )
        raise UsageError(f"{where}{path} {why}") from error
    except ValueError as error:
        raise UsageError(f"{where}{path}: expected a .npy file with numbers: {error}") from error


def read_given_energies(path: str | Path, option: str) -> np.ndarray:
    """Reads the energies [B] in a file that `ebm-run score --out` wrote.

    Args:
        path: the file that a user named; never unpickled.
        option: that named it.

    Raises:
        UsageError: there is no such file, or nothing of the kind in it.
    """
    try:
        with Path(path).open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError(f"it is one array {list(arrays.shape)}, as a .npy file has it")
            with arrays:
                energies: np.ndarray = np.asarray(arrays["energy"], np.float64)
    except FileNotFoundError as error:
        raise UsageError(f"{option}: there is no file {path}") from error
    except Exception as error:  # an archive can be damaged in many ways
        raise UsageError(f"{option}: {path}: expected a FILE.npz that ebm-run score --out wrote: {error}") from error
    return energies
