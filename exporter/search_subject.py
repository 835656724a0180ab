"""What the log of a search is of: a search goes on from one of its own alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..calibration.gate_rules import GateRules
from ..calibration.search_log import SearchLog
from ..runtime.device import describe_device, toolchain
from .calibrated import CalibratedArtifacts

__all__ = ["search_log", "search_subject"]

_NO_SAY = ("memory", "system", "python")
"""What a device says of itself that changes neither samples nor the time of an engine: updates of a kernel, another limit of memory."""


def search_log(artifacts: CalibratedArtifacts, name: str, path: Path | None) -> SearchLog:
    """The log of the search for a target's mixed artifact, which its INT8 artifact shares: both begin with what each layer does.

    Args:
        artifacts: of this export, with a gate.
        name: of the target.
        path: the file; None keeps none.
    """
    assert artifacts.rules is not None
    layers = artifacts.graphs.quantizer(artifacts.scheme(name)).default
    return SearchLog(path, search_subject(artifacts, name, layers, artifacts.rules))


def search_subject(
    artifacts: CalibratedArtifacts, name: str, layers: Collection[str], rules: GateRules
) -> dict[str, Any]:
    """What a log must have been of for its trials to hold here.

    The calibration that they were made with is in it as what came of it, the graph with all of these layers in INT8, whose every grid,
    weight and correction comes from the states: another version of what records these, or chooses those, need not have another number.

    The order of the layers is no part of it, and stands in the log itself: two layers that do nearly the same harm may change places when
    they are measured again, or time runs out at another one, which would part a search from its own log.

    Args:
        artifacts: of this export.
        name: of the target.
        layers: names of those that may run in INT8.
        rules: of the gate.
    """
    scheme = artifacts.scheme(name)
    arrays = {"data": artifacts.data}
    conditions, real = artifacts.conditions, artifacts.conditions.data
    paired: dict[str, np.ndarray | None] = {}
    if real is not None:
        paired = {"real rows": real.rows, **real.conditions}  # rows of `data`
    for use, rows in (("calibration", conditions.calibration), ("judged", conditions.judged), ("paired", paired)):
        arrays |= {f"{use} {name}": array for name, array in rows.items()}
    return {
        "graph": _digest_of(artifacts.model),
        "calibration": _digest_of(artifacts.graphs.corrected(scheme, layers)),
        "split": artifacts.halves is not None,
        "verify": artifacts.golden is not None,  # from which the gradient scales of all chains are known
        "target": name,
        "layers": sorted(layers),
        "scheme": asdict(scheme),
        "sampler": artifacts.config.to_dict(),
        "batch": list(artifacts.batch),
        "gate": vars(rules),
        "networks": [] if artifacts.networks is None else list(artifacts.networks.identity),
        "arrays": {key: None if array is None else _digest(array) for key, array in sorted(arrays.items())},
        "device": {what: said for what, said in describe_device().items() if what not in _NO_SAY},
        "toolchain": toolchain(),
    }


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _digest_of(model: ir.Model) -> str:
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()
