"""Writes manifest.json: what is in the bundle, and what was found about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.bundle import SCHEMA_VERSION
from ..runtime.config import SamplerConfig
from .energy import Energy
from .targets import Artifact
from .trace import input_names
from .verify import Verification

__all__ = ["write_manifest"]


def write_manifest(
    folder: Path,
    energy: Energy,
    config: SamplerConfig,
    golden: dict[str, np.ndarray] | None,
    artifacts: Sequence[Artifact],
    verifications: Iterable[Verification],
) -> None:
    """Writes the manifest of a bundle whose other files are all in place.

    Args:
        folder: the bundle being written.
        energy: the model.
        config: sampler settings that the bundle carries.
        golden: the states the engines were checked at; None where nothing was verified.
        artifacts: entries of the files.
        verifications: one for each artifact that was looked at.
    """
    names = input_names(energy)
    found = {verification.path: verification for verification in verifications}
    x = golden["x"] if golden is not None else None
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": energy.name,
            "x": {"shape": list(energy.x.shape[1:]), "dtype": "float32"},
            "wrt": energy.wrt,
            "cond": [
                {"name": names[name], "dtype": _dtype(value), "shape": list(value.shape[1:])}
                for name, value in energy.cond.items()
            ],
            "range": {} if x is None else {"x": [float(x.min()), float(x.max())]},
        },
        "sampler": config.to_dict(),
        "artifacts": [_entry(folder, artifact, found.get(artifact["path"])) for artifact in artifacts],
        "verification": [verification.to_dict() for verification in found.values() if not verification.reason],
        "created_with": {
            package: metadata.version(package) for package in ("ebm-export", "torch", "onnx", "onnx-ir", "numpy")
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _entry(folder: Path, artifact: Artifact, found: Verification | None) -> dict[str, Any]:
    entry: dict[str, Any] = {**artifact, "sha256": _digest(folder / artifact["path"])}
    entry["files"] = {name: _digest(folder / name) for name in artifact["files"]}
    if found is not None and found.passed:
        entry["status"] = "verified"
    elif found is not None and found.reason:
        entry["note"] = "; ".join(filter(None, (artifact["note"], f"not run here: {found.reason}")))
    return entry


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sum(file.read())


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _dtype(value: Any) -> str:
    return "float32" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
