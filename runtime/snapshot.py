"""Everything that a batch of chains goes on from after a step, and its form as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from .gradient_scale import ScaleState
from .samplers import langevin, mala, optimize, preconditioned, surrogate, tempering, underdamped
from .warm_up import WarmUpState

__all__ = ["Snapshot", "from_arrays", "to_arrays"]

_STATES = {
    module.__name__.rpartition(".")[2]: module.State
    for module in (langevin, mala, optimize, preconditioned, surrogate, tempering, underdamped)
}
"""States by their sampler; HMC's is that of MALA."""


class Snapshot(NamedTuple):
    """What decides the steps to come. Noise depends on seed, step and chain alone, so it is not part of it.

    Attributes:
        done: steps taken.
        state: the sampler's `State`. The arrays are overwritten by the steps that follow.
        scale: of the gradients.
        warm_up: what was adapted.
        lost: [B] bool, chains that diverged; None where there are none.
        calls: how often the engine was asked.
    """

    done: int
    state: Any
    scale: ScaleState
    warm_up: WarmUpState
    lost: np.ndarray | None
    calls: int


def to_arrays(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Returns a snapshot as arrays by name, which `from_arrays` reads; copies nothing."""
    kind = type(snapshot.state).__module__.rpartition(".")[2]
    return {"sampler": np.array(kind), **_flat("", snapshot)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Snapshot:
    """Reads what `to_arrays` made.

    Raises:
        KeyError: an array is missing, or the sampler is unknown.
    """
    return Snapshot(
        done=int(arrays["done"]),
        state=_filled(_STATES[str(arrays["sampler"])], "state.", arrays),
        scale=_filled(ScaleState, "scale.", arrays),
        warm_up=_filled(WarmUpState, "warm_up.", arrays),
        lost=arrays.get("lost"),
        calls=int(arrays["calls"]),
    )


def _flat(prefix: str, value: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, entry in value._asdict().items():
        if hasattr(entry, "_asdict"):
            found |= _flat(f"{prefix}{name}.", entry)
        elif entry is not None:
            found[f"{prefix}{name}"] = np.asarray(entry)
    return found


def _filled(kind: Any, prefix: str, arrays: Mapping[str, np.ndarray]) -> Any:
    values = {}
    for name, hint in get_type_hints(kind).items():
        key = f"{prefix}{name}"
        if hasattr(hint, "_fields"):
            values[name] = _filled(hint, f"{key}.", arrays)
        elif hint in (int, bool):
            values[name] = hint(arrays[key])
        elif hint is np.ndarray:
            values[name] = arrays[key]
        else:  # an array, or None
            values[name] = arrays.get(key)
    return kind(**values)
