"""Reads the folder that an export writes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from .config import SamplerConfig
from .errors import LoadError
from .file_hash import sha256_of
from .manifest import Artifact, Manifest, ModelSpec

__all__ = ["DATA", "GOLDEN", "MANIFEST", "Bundle"]

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
DATA = "data.npy"


class Bundle:
    """A folder of engine files with a manifest.

    Reading one unpickles and imports nothing. Each file is compared with its sha256 when it is asked for.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        manifest: what it says about itself.
        built_here: sha256 of plans that were built for this process alone and are not in the folder, by the path of those they stand for.

    Raises:
        LoadError: there is no such folder, it is no bundle, or its manifest cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Some files are opened later, perhaps after the process went to another folder.
        self._folder = self.path.absolute()
        self.manifest = _read_manifest(self.path)
        self.built_here: dict[str, str] = {}

    def read_again(self) -> None:
        """Reads the manifest again, which this process has changed.

        Raises:
            LoadError: it cannot be read.
        """
        self.manifest = _read_manifest(self.path)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The engines' files, in the order they were written."""
        return self.manifest.artifacts

    @property
    def model(self) -> ModelSpec:
        """What the energy takes."""
        return self.manifest.model

    @property
    def sampler(self) -> SamplerConfig:
        """The settings it is sampled with unless told otherwise."""
        return self.manifest.sampler

    def now(self, artifact: Artifact) -> Artifact:
        """Returns an artifact as it is entered now, which is other than it was where this process has built it again."""
        return next((entry for entry in self.artifacts if entry.path == artifact.path), artifact)

    def file_of(self, artifact: Artifact) -> Path:
        """Returns an artifact's file, after comparing it and the files that belong to it with their sha256.

        Raises:
            LoadError: a file is missing or was changed.
        """
        for name, digest in artifact.files.items():
            self._check(name, digest)
        return self._check(artifact.path, artifact.sha256)

    def prologue_of(self, artifact: Artifact) -> Artifact | None:
        """Returns the artifact whose features this one takes, or None where it takes conditioning inputs alone.

        Raises:
            LoadError: the manifest has no entry for it.
        """
        return self._named(artifact.prologue, artifact)

    def sampler_of(self, artifact: Artifact) -> Artifact | None:
        """Returns the artifact that takes several steps of this one in one call, or None where there is none.

        Raises:
            LoadError: the manifest has no entry for it.
        """
        return self._named(artifact.sampler, artifact)

    def _named(self, path: str, artifact: Artifact) -> Artifact | None:
        if not path:
            return None
        for other in self.artifacts:
            if other.path == path:
                return other
        raise LoadError(f"{self.path}: {artifact.path} needs {path}, which the manifest has no entry for")

    @property
    def has_golden(self) -> bool:
        """Whether it holds PyTorch's answers; one that was exported with --no-verify does not."""
        return (self._folder / GOLDEN).exists()

    def golden(self) -> dict[str, np.ndarray]:
        """Returns the states and PyTorch's answers there, the arrays that `verify.check_engine` takes.

        Raises:
            LoadError: the file is missing, was changed or cannot be read.
        """
        path = self._check(GOLDEN, self.manifest.files.get(GOLDEN))
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise LoadError(f"{path}: cannot be read as arrays ({error}); export the model again") from error

    def data(self) -> np.ndarray | None:
        """Returns the states [M, *S] float32 that chains can start from; None if the bundle has none.

        Raises:
            LoadError: the file was changed, cannot be read, or holds something else.
        """
        if DATA not in self.manifest.files and not (self.path / DATA).exists():
            return None
        path = self._check(DATA, self.manifest.files.get(DATA))
        try:
            states = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise LoadError(f"{path}: cannot be read as an array ({error}); export the model again") from error
        shape = self.manifest.model.x.shape
        if states.dtype != np.float32 or states.shape[1:] != shape or states.ndim == 0 or not len(states):
            raise LoadError(f"{path}: expected float32 states [M, *{shape}], got {states.dtype} {states.shape}")
        return np.asarray(states)

    def _check(self, name: str, digest: str | None) -> Path:
        """Compares a file with its sha256; a file of an older manifest without one only has to be there."""
        path = self._folder / name
        if not path.is_file():
            raise LoadError(f"the bundle {self.path} lacks its file {name}: copy the whole folder, or export again")
        if digest is not None and (found := sha256_of(path)) != digest:
            raise LoadError(
                f"{path} is damaged or was changed: its sha256 should begin with {digest[:12]} and begins with "
                f"{found[:12]}; copy the bundle again, or export the model again"
            )
        return path


def _read_manifest(folder: Path) -> Manifest:
    if not folder.exists():
        raise LoadError(f"there is no bundle {folder}: the path does not exist")
    path = folder / MANIFEST
    if not path.is_file():
        raise LoadError(f"{folder} is not a bundle: expected a folder with a {MANIFEST}, as ebm-export writes it")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise LoadError(f"{path}: cannot be read as JSON ({error}); export the model again") from error
    return Manifest.from_dict(entries, str(path))
