"""Compares an engine with PyTorch's answers along a trajectory.

What is compared, for every sample b, with g the engine's gradient divided by grad_scale and r PyTorch's in float64:

    relative error  ||g - r|| / ||r||
    cosine          <g, r> / (||g|| ||r||)
    energy error    |e - e_ref| / max(standard deviation of e_ref over all golden states, least_spread |e_ref|)

An energy has no natural zero, so the last is relative to the spread, which is what a sampler sees: an engine that returns the constant of an energy
and nothing else is right to any share of |e_ref|. `Tolerance.least_spread` times the limit is what rounding may do beside a large constant.

A reference gradient of exactly zero has neither relative error nor direction. Its error is then taken relative to the
typical gradient of its stage, the median norm of the references there that are not zero (of all stages, where
the whole stage is zero; 1 where everything is), and its cosine counts as 1: the error alone decides.

A gradient that is small beside the largest of the stages' typical gradients, as at the end of a descent, is what is left of
terms that cancel, and each of these was rounded. Where that shows, in an error of PyTorch's own of more than 1 %, it counts as
at least `Tolerance.least_size` of the largest in its relative error, and below that there is no direction to judge. In another
precision than FP32 that is done for chains that come to rest alone, and in INT8 there everywhere: with noise the last gradients
are what makes the samples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .engine import Engine
from .errors import EngineMismatch, UsageError

__all__ = ["BATCHES", "UNLIMITED", "StageResult", "Tolerance", "check_engine", "energy_sizes", "is_judged", "tolerance"]

BATCHES = (slice(0, 1), slice(1, 4), slice(0, 8))
"""Rows of each stage that make the batches of 1, 3 and 8; an engine that takes fewer gets them in parts."""

_HIGHEST_FLOOR = 0.7
"""A gradient that is off by more than this share of its length is wrong, whatever rounding may do."""

_UNKNOWN = 0.1
"""Share of the golden states at which PyTorch's own error may be so large that nothing is asked of the gradient there: of a policy with
relus in FP16 some of 96 are. With more, no error says enough about PyTorch to excuse an engine."""

_ROUNDED = 0.02
"""Twice PyTorch's own error from which a small gradient is what rounding left of larger terms."""

_FLOOR_FACTOR = 2.0  # the engine's own rounding on top of PyTorch's: two independent errors of that size at most add up


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What a precision may be off by, per sample; each limit itself is still allowed.

    Attributes:
        relative_error: largest relative error of the gradient.
        cosine: smallest cosine, or -1 where the relative error says enough; lower where that may be larger.
        energy_error: largest energy error.
        reference_factor: the limits on both errors rise to this many times the error of PyTorch's own float32 energy
            and gradient at that sample where that is larger; 0 for no such rise. An engine that computes in float32
            cannot be asked to be closer to float64 than float32 arithmetic is, the error being the largest over the state
            and copies of it that differ by rounding, since a relu's gradient jumps where a sum is near zero. In FP16 and BF16
            it is what PyTorch is off by in this type, or weights in this type and, added to it, the largest jump beside the state.
            The gradient's limit rises to 0.7 at most; where it would have to rise higher nothing is asked of the gradient but to
            be finite, at a tenth of the states at most.
        least_size: share of the largest of the stages' typical gradients that a shorter one counts as, see the top of this file.
            Times the limit it is what rounding may do.
        least_spread: share of |E| that a smaller spread of the energies counts as. Times the limit it is what rounding may do, where
            activations are approximated and what they are off by adds up.
    """

    relative_error: float
    cosine: float
    energy_error: float
    reference_factor: float = 0.0
    least_size: float = 0.0
    least_spread: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """The manifest's entry."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """The limits in words, for an error message."""
        text = f"relative error up to {self.relative_error:g}, energy error up to {self.energy_error:g}"
        if self.cosine > -1:
            text += f", cosine from {self.cosine:g}"
        if self.reference_factor:
            text += f" (or {self.reference_factor:g} times PyTorch's own error by rounding where that is more)"
        return text


@dataclasses.dataclass(frozen=True)
class StageResult:
    """How far an engine is off at one stage in one batch size: the worst of the batch, and the verdict.

    Attributes:
        stage: number of the stage, 0 at the start of the trajectory.
        step: steps taken at that stage.
        batch: number of samples in the engine call.
        relative_error: largest relative error of the gradient; infinite where the engine's is not finite.
        cosine: smallest cosine.
        energy_error: largest energy error; infinite where the engine's energy is not finite.
        passed: True if every sample is within its tolerance.
        shared: True if all samples had the conditions of one, which alone was compared.
    """

    stage: int
    step: int
    batch: int
    relative_error: float
    cosine: float
    energy_error: float
    passed: bool
    shared: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The manifest's entry."""
        return dataclasses.asdict(self)


_TOLERANCES = {
    # Rounding may do eight units in the last place of float32, and four of FP16 and BF16; to energies 32 of float32, as
    # right engines of a perceptron with twelve layers, whose last terms cancel, were off by four, and six to eight of the low types, as those of
    # convolutions with group norms were off by four.
    "fp32": Tolerance(1e-4, -1.0, 1e-4, reference_factor=_FLOOR_FACTOR, least_size=0.01, least_spread=0.04),
    "fp16": Tolerance(5e-2, 0.999, 5e-2, reference_factor=_FLOOR_FACTOR, least_size=0.08, least_spread=0.16),
    "bf16": Tolerance(5e-2, 0.999, 5e-2, reference_factor=_FLOOR_FACTOR, least_size=0.64, least_spread=1.0),
}


UNLIMITED = Tolerance(relative_error=math.inf, cosine=-1.0, energy_error=math.inf, least_size=0.1, least_spread=0.1)
"""Measures and accepts everything, for engines that are judged by their samples."""


def is_judged(precision: str) -> bool:
    """True where the gradients of an engine of this precision have a tolerance; INT8 and mixed ones are judged by samples."""
    return precision in _TOLERANCES


def tolerance(precision: str) -> Tolerance:
    """Returns what a precision may be off by.

    Raises:
        UsageError: no tolerance is set for this precision; INT8 and mixed engines are judged by their samples.
    """
    if precision not in _TOLERANCES:
        raise UsageError(
            f"precision {precision!r} is not judged gradient by gradient; those that are: {', '.join(_TOLERANCES)}"
        )
    return _TOLERANCES[precision]


def check_engine(
    engine: Engine, golden: Mapping[str, np.ndarray], precision: str, limits: Tolerance | None = None
) -> list[StageResult]:
    """Compares an engine with golden data, stage by stage and in three batch sizes.

    Args:
        engine: an open engine.
        golden: the arrays of golden.npz: x [G, N, *S] float32, step [G], grad_scale [G, N] float32, energy [G, N]
            and grad [G, N, *S] float64, rests (whether the chains come to rest; left out, they do not), reference_error and
            reference_energy_error [G, N], for a precision other than FP32 with ".PRECISION" behind the name, and "cond.NAME"
            [G, N, ...]. N is at least 8.
        precision: whose tolerance applies.
        limits: a tolerance in place of the precision's own.

    Returns:
        One result per stage and batch, G times 3, or more where the engine does not take all of a batch in one call. With conditioning
        inputs, and an engine that takes more than one sample, G more: of a sample in a batch whose samples all have its conditions, which
        engines may take in another way.

    Raises:
        UsageError: no tolerance is set for this precision.
        EngineMismatch: an output is missing or has another shape.
    """
    limits = limits or tolerance(precision)
    spread = float(np.std(golden["energy"]))
    sizes = energy_sizes(golden["energy"], spread, limits)  # [G, N]
    if precision != "fp32" and not golden.get("rests", False):
        limits = dataclasses.replace(limits, least_size=0.0)
    golden = dict(golden) | {"energy_size": sizes}
    for name in ("reference_error", "reference_energy_error"):
        if precision != "fp32":  # what FP32 may be off by is nothing beside it
            golden[name] = golden.get(f"{name}.{precision}", np.zeros(golden["energy"].shape))
    golden["reference_energy_error"] = _energy_rounding(golden["reference_energy_error"])
    unknown = limits.reference_factor * golden["reference_error"] > _HIGHEST_FLOOR  # [G, N]
    golden["unknown"] = unknown & (unknown.mean() <= _UNKNOWN)
    typical = _typical_norms(golden["grad"])
    largest = float(typical.max(initial=0.0))
    results = []
    for stage, step in enumerate(golden["step"]):
        for rows in _that_fit(engine):
            batch = {name: array[stage][rows] for name, array in golden.items() if array.ndim > 1}
            norms = (typical[stage], largest)
            results.append(_check_batch(engine, batch, limits, norms, stage, int(step)))
        if engine.largest_batch != 1 and any(name.startswith("cond.") for name in golden):
            batch = {name: array[stage][: engine.largest_batch] for name, array in golden.items() if array.ndim > 1}
            only = stage % len(batch["x"])
            results.append(_check_batch(engine, batch, limits, norms, stage, int(step), only))
    return results


def _that_fit(engine: Engine) -> list[slice]:
    """`BATCHES`, in parts where the engine takes fewer samples in one call."""
    parts = []
    for rows in BATCHES:
        largest = engine.largest_batch or rows.stop
        parts += [slice(first, min(first + largest, rows.stop)) for first in range(rows.start, rows.stop, largest)]
    return parts


def energy_sizes(energy: np.ndarray, spread: float, limits: Tolerance) -> np.ndarray:
    """What errors of energies are relative to, in the shape of `energy`; 1 where that would be 0.

    Args:
        energy: exact energies.
        spread: their standard deviation over all golden states.
        limits: what applies.
    """
    sizes = np.maximum(spread, limits.least_spread * np.abs(energy))
    return np.where(sizes > 0, sizes, 1.0)


def _energy_rounding(errors: np.ndarray) -> np.ndarray:
    """PyTorch's own errors [G, N], each at least the median of its stage: one state alone may be right by chance."""
    known = np.nan_to_num(errors, nan=0.0, posinf=0.0)
    return np.maximum(known, np.median(known, axis=1, keepdims=True))


def _check_batch(
    engine: Engine,
    golden: Mapping[str, np.ndarray],
    limits: Tolerance,
    typical: tuple[float, float],
    stage: int,
    step: int,
    only: int | None = None,
) -> StageResult:
    """Runs one batch; `golden` holds its rows alone, `typical` is the typical norm of its stage, and the largest of all stages.

    With `only` all rows have that one's conditions, and it alone is compared.
    """
    asked = size = len(golden["x"])
    given = golden
    if only is not None:
        rows = slice(only, only + 1)
        shared = {name: np.repeat(a[rows], size, axis=0) for name, a in golden.items() if name.startswith("cond.")}
        given, golden, size = {**golden, **shared}, {name: array[rows] for name, array in golden.items()}, 1
    energy, grad = _run(engine, given, f"stage {stage}, batch {asked}")
    if only is not None:
        energy, grad = energy[rows], grad[rows]
    reference = golden["grad"].reshape(size, -1)
    norms = np.linalg.norm(reference, axis=1)  # [B]
    floor = limits.reference_factor * golden["reference_error"]  # [B], of the norm
    rounded = (limits.reference_factor == 0) | (floor > _ROUNDED)
    sizes = np.where(norms > 0, norms, typical[0])
    sizes = np.maximum(sizes, np.where(rounded, limits.least_size * typical[1], 0.0))
    finite = np.isfinite(grad).all(axis=1)
    grad = np.where(finite[:, None], grad, 0.0)
    difference = np.linalg.norm(grad - reference, axis=1)
    relative = np.where(finite, difference / sizes, np.inf)
    lengths = norms * np.linalg.norm(grad, axis=1)
    dot = np.einsum("bd,bd->b", grad, reference)
    # A gradient of zero where the reference is not has no direction: the cosine of a right angle.
    cosine = np.divide(dot, lengths, out=np.zeros(size), where=lengths > 0)
    cosine = np.where((norms > 0) & (norms >= sizes), cosine, 1.0)

    energy_error = np.abs(energy - golden["energy"]) / golden["energy_size"]
    energy_error = np.where(np.isfinite(energy), energy_error, np.inf)

    floor = np.minimum(np.nan_to_num(floor * norms / sizes, nan=0.0, posinf=0.0), _HIGHEST_FLOOR)
    # A gradient that is off by a share r of its length has turned by an angle of at most arcsin r.
    cosine_floor = np.sqrt(1 - np.minimum(floor, 1) ** 2)
    energy_floor = limits.reference_factor * golden["reference_energy_error"] / golden["energy_size"]
    right = (relative <= np.maximum(limits.relative_error, floor)) & (cosine >= np.minimum(limits.cosine, cosine_floor))
    passed = (
        finite
        & np.isfinite(energy)
        & (right | golden["unknown"])
        & (energy_error <= np.maximum(limits.energy_error, energy_floor))
    )
    return StageResult(
        stage=stage,
        step=step,
        batch=asked,
        relative_error=float(relative.max()),
        cosine=float(cosine.min()),
        energy_error=float(energy_error.max()),
        passed=bool(passed.all()),
        shared=only is not None,
    )


def _run(engine: Engine, golden: Mapping[str, np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the engine's energy [B] and unscaled gradient [B, D], both float64."""
    inputs = {"x": golden["x"], "grad_scale": golden["grad_scale"]}
    inputs |= {name.removeprefix("cond."): array for name, array in golden.items() if name.startswith("cond.")}
    outputs = engine.run({name: np.ascontiguousarray(array) for name, array in inputs.items()})
    expected = {"energy": golden["energy"].shape, "grad": golden["x"].shape}
    for name, shape in expected.items():
        got = outputs[name].shape if name in outputs else "no such output"
        if got != shape:
            raise EngineMismatch(f"{engine.backend}, {where}: output {name!r} should be {shape}, got {got}")
    grad = outputs["grad"].reshape(len(golden["x"]), -1).astype(np.float64)
    return outputs["energy"].astype(np.float64), grad / golden["grad_scale"].astype(np.float64)[:, None]


def _typical_norms(grad: np.ndarray) -> np.ndarray:
    """Returns for each stage the median norm of the gradients that are not zero; grad is [G, N, *S]."""
    norms = np.linalg.norm(grad.reshape(*grad.shape[:2], -1), axis=2)  # [G, N]
    overall = np.median(norms[norms > 0]) if (norms > 0).any() else 1.0
    return np.array([np.median(stage[stage > 0]) if (stage > 0).any() else overall for stage in norms])
