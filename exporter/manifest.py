"""Writes manifest.json: what is in the bundle, and what was found about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..calibration.verdict import GateResult
from ..runtime.bundle_writer import write_manifest
from ..runtime.config import SamplerConfig
from ..runtime.file_hash import sha256_of
from ..runtime.known_scales import NOTHING_KNOWN
from ..runtime.manifest import NOT_COMPARED, NOT_JUDGED, SCHEMA_VERSION, VERIFIED, ModelSpec, TensorSpec
from ..runtime.verify import is_judged
from .energy import Energy
from .scales import scales_of
from .targets import Artifact
from .targets.score import companions
from .trace import graph_dtype, input_names
from .verify import Verification

__all__ = ["describe_bundle", "mark_verified", "model_spec"]


def mark_verified(
    artifacts: Iterable[Artifact], verifications: Iterable[Verification], gates: Mapping[str, GateResult]
) -> None:
    """Puts into the entries of files, and of what ran with them, what became of that.

    Args:
        artifacts: entries of the files.
        verifications: one for each artifact that was looked at.
        gates: what the quality gate found, by path, for those that went through it.
    """
    found = {verification.path: verification for verification in verifications}
    for artifact in artifacts:
        verification = found.get(artifact["path"])
        if verification is None:
            if artifact["path"] in gates:  # whose chains ran the prologue, and no several steps in one call
                for entry in filter(None, (artifact.get("prologue"), artifact)):
                    entry["status"] = NOT_COMPARED
            continue
        for entry in (*companions(artifact), artifact):
            if verification.passed:
                judged = artifact["path"] in gates or is_judged(entry["precision"])
                entry["status"] = VERIFIED if judged else NOT_JUDGED
            elif verification.reason:
                entry["note"] = "; ".join(filter(None, (entry["note"], "not run where it was exported")))


def describe_bundle(
    folder: Path,
    energy: Energy,
    config: SamplerConfig,
    golden: dict[str, np.ndarray] | None,
    artifacts: Sequence[Artifact],
    verifications: Iterable[Verification],
    gates: Mapping[str, GateResult],
    limits: Mapping[str, tuple[int, int]] | None = None,
    widest: int = 0,
    compared_by: str = "x itself",
) -> None:
    """Writes the manifest of a bundle whose other files are all in place.

    Args:
        folder: the bundle being written.
        energy: the model.
        config: sampler settings that the bundle carries.
        golden: the states the engines were checked at; None where nothing was verified.
        artifacts: entries of the files, as `mark_verified` left them.
        verifications: one for each artifact that was looked at.
        gates: what the quality gate found, by path, for those that went through it.
        limits: as for `model_spec`, like the next.
        widest: what `widest_activation` found.
        compared_by: what the gate compared samples by.
    """
    names = input_names(energy)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": energy.name,
            "x": {"shape": list(energy.x.shape[1:]), "dtype": "float32"},
            "wrt": energy.wrt,
            "cond": [
                _condition(name, names[name], value, limits) | _seen(energy, name)
                for name, value in energy.cond.items()
            ],
            **({} if golden is None else {"range": _range(golden), **_scales(golden)}),
            **({"widest": widest} if widest else {}),
        },
        "sampler": config.to_dict(),
        "artifacts": [entry for artifact in artifacts for entry in _entries(folder, artifact)],
        "verification": _found(artifacts, verifications, gates, compared_by),
        "created_with": {
            package: metadata.version(package) for package in ("ebm-export", "torch", "onnx", "onnx-ir", "numpy")
        },
    }
    write_manifest(folder, manifest)


def model_spec(
    energy: Energy,
    golden: Mapping[str, np.ndarray] | None = None,
    limits: Mapping[str, tuple[int, int]] | None = None,
    widest: int = 0,
) -> ModelSpec:
    """What the runtime will read of an energy, as far as the calibration asks.

    Args:
        energy: the model.
        golden: as for `describe_bundle`.
        limits: what `index_limits` found, by graph input name.
        widest: what `widest_activation` found; 0 where nobody looked.
    """
    names = input_names(energy)
    cond = [_condition(name, names[name], value, limits) for name, value in energy.cond.items()]
    return ModelSpec(
        energy.name,
        TensorSpec("x", tuple(energy.x.shape[1:]), "float32"),
        energy.wrt,
        tuple(
            TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"], limits=entry.get("limits"))
            for entry in cond
        ),
        scales=NOTHING_KNOWN if golden is None else scales_of(golden),
        widest=widest,
    )


def _found(
    artifacts: Sequence[Artifact],
    verifications: Iterable[Verification],
    gates: Mapping[str, GateResult],
    compared_by: str,
) -> list[dict[str, Any]]:
    """What was found about each engine that ran; of one that was not compared with PyTorch, the gate's verdict alone."""
    found = {each.path: each.to_dict() for each in verifications if not each.reason}
    for artifact in artifacts:
        path = artifact["path"]
        if path in gates:
            own = found.setdefault(path, {"path": path, "precision": artifact["precision"]})
            own |= {"gate": gates[path].to_dict(), "compared_by": compared_by}
    return list(found.values())


def _scales(golden: Mapping[str, np.ndarray]) -> dict[str, float]:
    usual, highest = scales_of(golden)
    return {"usual_scale": usual, "highest_scale": highest}


def _range(golden: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [float(golden[name].min()), float(golden[name].max())] for name in ("x", "energy")}


def _entries(folder: Path, artifact: Artifact) -> list[dict[str, Any]]:
    """The entry of a score graph, and before it those of what belongs to it and was verified with it."""
    others = [_entry(folder, other) for other in companions(artifact)]
    entry = _entry(folder, artifact)
    for name in ("prologue", "sampler"):
        if name in artifact:
            entry[name] = artifact[name]["path"]  # type: ignore[literal-required]
    entry.pop("standalone", None)
    return [*others, entry]


def _entry(folder: Path, artifact: Artifact) -> dict[str, Any]:
    entry: dict[str, Any] = {**artifact, "sha256": sha256_of(folder / artifact["path"])}
    entry["files"] = {name: sha256_of(folder / name) for name in artifact["files"]}
    return entry


def _condition(
    parameter: str, name: str, value: torch.Tensor, limits: Mapping[str, tuple[int, int]] | None
) -> dict[str, Any]:
    """A conditioning input; the user's name and the range of the user's type only where the graph has others."""
    entry: dict[str, Any] = {"name": name, "dtype": _dtype(value), "shape": list(value.shape[1:])}
    if name != parameter:
        entry["parameter"] = parameter
    if entry["dtype"] == "int64":
        own = torch.iinfo(value.dtype)
        low, high = (limits or {}).get(name, (own.min, own.max))
        if value.dtype != torch.int64 or name in (limits or {}):
            entry["limits"] = [max(low, own.min), min(high, own.max)]
    return entry


def _seen(energy: Energy, parameter: str) -> dict[str, list[float]]:
    """The smallest and the largest finite number among the rows that were given of a conditioning input of floats, where there are any."""
    rows = energy.observations[parameter][: energy.real_rows.get(parameter, 0)].detach()
    if not rows.is_floating_point():
        return {}
    if not bool(rows.isfinite().all()):  # of a mask
        rows = rows[rows.isfinite()]
    return {"range": [float(rows.min()), float(rows.max())]} if rows.numel() else {}


def _dtype(value: Any) -> str:
    return str(graph_dtype(value)).removeprefix("torch.")
