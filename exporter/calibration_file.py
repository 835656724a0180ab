"""What a bundle says of its calibration: the states, and what became of each layer and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..calibration.layer_precisions import CALIBRATION
from ..calibration.states import States
from .calibrated import Calibrated

__all__ = ["write_calibration"]


def write_calibration(
    folder: Path, made: Sequence[Calibrated], states: States, conditions: Mapping[str, np.ndarray]
) -> None:
    """Writes calibration.json.

    Args:
        folder: the bundle's.
        made: the artifacts that were calibrated, in the order of the file.
        states: where they were.
        conditions: rows of the conditioning inputs that the chains ran at, by graph name, [R, ...].
    """
    said = {
        "states": {
            "count": len(states),
            "stages": len(np.unique(states.step)),
            "real data": int(np.count_nonzero(states.step < 0)),
            "conditions": {name: min(len(rows), len(np.unique(states.row))) for name, rows in conditions.items()},
        },
        "artifacts": [
            {
                "path": each.artifact["path"],
                **({"prologue": each.prologue} if each.prologue else {}),
                "nodes": each.layers,
            }
            for each in made
        ],
    }
    (folder / CALIBRATION).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
