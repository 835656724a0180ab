"""Tells what kind of model file a file is, by what is in it."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from enum import Enum
from pathlib import Path

from ..runtime.errors import LoadError

__all__ = ["FileForm", "file_form", "pickled_globals"]


class FileForm(Enum):
    """The forms of model files."""

    ARCHIVE = "torch.export archive"
    TORCHSCRIPT = "TorchScript archive"
    PICKLE = "file of torch.save"
    SAFETENSORS = "safetensors file"


_FORMS = "a torch.export archive, a TorchScript archive, a state_dict, a checkpoint, or a safetensors file"
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The pickled number at the start of torch.save files from before PyTorch 1.6."""


def file_form(path: Path) -> FileForm:
    """Looks into a file; its name plays no part.

    Raises:
        LoadError: there is no such file, it is a folder, empty, cut off, or no model.
    """
    if path.is_dir():
        inside = "manifest.json" if (path / "manifest.json").is_file() else ""
        hint = "; it is a bundle that is exported already: give the model it was made from" if inside else ""
        raise LoadError(f"{path} is a folder; expected a model file{hint}")
    if not path.exists():
        raise LoadError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise LoadError(f"{path} is empty; expected {_FORMS}")
    if head.startswith(b"PK"):
        return _zip_form(path)
    if head.startswith(b"\x80") and (_LEGACY_MAGIC in head or _is_pickle(path)):
        return FileForm.PICKLE
    if _is_safetensors(path):
        return FileForm.SAFETENSORS
    if head.startswith(b"\x80"):
        raise LoadError(f"{path} begins like a pickle and breaks off or is damaged; copy or save it again")
    if b"git-lfs" in head:
        raise LoadError(f"{path} is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`")
    raise LoadError(f"{path} is no model file: it begins with {head[:8]!r}; expected {_FORMS}")


def _zip_form(path: Path) -> FileForm:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise LoadError(
            f"{path} begins like a model archive and has no end: it is cut off or damaged ({path.stat().st_size} "
            "bytes are there); copy or save it again"
        ) from error
    inside = {name.partition("/")[2] or name for name in names}
    if "serialized_exported_program.json" in names:
        raise LoadError(
            f"{path} is a torch.export archive of PyTorch 2.7 or older, whose layout is no longer read; "
            "export the model again with a newer PyTorch"
        )
    if "archive_format" in inside:
        if not any(name.startswith("models/") for name in inside):
            raise LoadError(
                f"{path} is a PT2 package without an exported program (compiled code alone cannot be differentiated); "
                "save the program with torch.export.save"
            )
        return FileForm.ARCHIVE
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return FileForm.TORCHSCRIPT
    if "data.pkl" in inside:
        return FileForm.PICKLE
    raise LoadError(f"{path} is a zip file and no model: it holds {', '.join(names[:4]) or 'nothing'}")


def _is_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            for _ in pickletools.genops(file):
                pass
    except (ValueError, EOFError, IndexError):
        return False
    return True


def _is_safetensors(path: Path) -> bool:
    """A safetensors file is the length of its header (8 bytes), then the header in JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if not 2 <= length <= 100_000_000 or file.read(1) != b"{":
            return False
        if 8 + length > size:
            raise LoadError(
                f"{path} begins like a safetensors file and is cut off: its header alone has {length} bytes, "
                f"the file {size}; copy or save it again"
            )
        file.seek(8)
        try:
            json.loads(file.read(length))
        except ValueError:
            return False
    return True


def pickled_globals(path: Path) -> tuple[list[str], bool]:
    """Reads what unpickling a torch.save file would import, without importing any of it.

    Returns:
        Names of the classes and functions; and whether the pickled object itself is an instance of the first one
        (a whole module), rather than a container that has it somewhere inside (a checkpoint).
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            stream, headers = io.BytesIO(archive.read(name)), 0
    else:
        stream, headers = io.BytesIO(path.read_bytes()), 0
        if _LEGACY_MAGIC in stream.getvalue()[:64]:
            headers = 3  # the old layout: a number, a version and the machine's sizes are pickled before the object
    found: dict[str, None] = {}
    starts_with_class = False
    for place in range(headers + 1):
        strings: list[str] = []
        opcodes = []
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                opcodes.append(opcode.name)
                if place == headers:
                    if opcode.name == "GLOBAL":
                        found[str(argument).replace(" ", ".")] = None
                    elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                        found[f"{strings[-2]}.{strings[-1]}"] = None
                    if isinstance(argument, str):
                        strings.append(argument)
        except (ValueError, EOFError, IndexError):
            break
        meaningful = [name for name in opcodes if name not in ("PROTO", "FRAME", "MEMOIZE", "BINUNICODE")]
        meaningful = [name for name in meaningful if name not in ("SHORT_BINUNICODE", "BINPUT")]
        # The old layout keeps a module's class and its source text in a tuple that begins with "module".
        with_source = meaningful[:1] == ["MARK"] and strings[:1] == ["module"]
        starts_with_class = with_source or (bool(meaningful) and meaningful[0] in ("GLOBAL", "STACK_GLOBAL"))
    return list(found), starts_with_class
