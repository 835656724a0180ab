"""Arrays that users give."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime.array_file import read_array, read_given_array
from ebm_export.runtime.errors import UsageError


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3), np.float32), np.bool_(True)])
def test_reads_what_numpy_writes(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    for mapped in (False, True):
        read = read_array(tmp_path / "a.npy", mapped=mapped)
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype


def test_a_file_that_is_mapped_is_not_in_memory_and_stays_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1000, 1000), np.float32))
    tracemalloc.start()
    try:
        read = read_given_array(tmp_path / "a.npy", mapped=True)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used < 100_000
    read[0] = 2
    assert (read_array(tmp_path / "a.npy") == 1).all()


def damaged(path: Path, how: str) -> None:
    np.save(path, np.ones((4, 3)))
    whole = path.read_bytes()
    if how == "objects":
        np.save(path, np.array([{}]), allow_pickle=True)
    elif how == "an archive":
        with path.open("wb") as file:
            np.savez(file, x=np.ones(3))
    elif how == "a header of other types":
        path.write_bytes(whole.replace(b"(4, 3)", b"(4, {})").replace(b"}  ", b"} ", 1))
    elif how == "a shape that is too large":
        path.write_bytes(whole.replace(b"(4, 3), }" + b" " * 22, b"(4" + b"9" * 22 + b", 3), }"))
    else:
        path.write_bytes({"empty": b"", "text": b"no array", "half an archive": b"PK\x03\x04half"}.get(how, whole[:-5]))


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "text",
        "cut off",
        "an archive",
        "half an archive",
        "objects",
        "a header of other types",
        "a shape that is too large",
    ],
)
def test_what_cannot_be_read_is_a_value_error(tmp_path: Path, how: str) -> None:
    damaged(tmp_path / "a.npy", how)
    for mapped in (False, True):
        with pytest.raises(ValueError, match="."):
            read_array(tmp_path / "a.npy", mapped=mapped)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_array(tmp_path / "a.npy")


def test_what_is_wrong_with_a_file_that_a_user_named(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    with pytest.raises(UsageError, match=r"^--cond k: there is no file .*a\.npy$"):
        read_given_array(file, "--cond k")
    with pytest.raises(UsageError, match=r" is a folder; expected a \.npy file$"):
        read_given_array(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.npy: expected a \.npy file with numbers: "):
        read_given_array(file)
    with pytest.raises(UsageError, match=r"a\.npy/b\.npy cannot be read: Not a directory$"):
        read_given_array(file / "b.npy")
