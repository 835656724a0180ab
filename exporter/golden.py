"""The states that engines are checked at, and PyTorch's answers there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch

from ..calibration import Trajectory, record_trajectory
from ..calibration.temperature import comes_to_rest
from ..runtime.backends.function import FunctionEngine
from ..runtime.config import SamplerConfig
from ..runtime.distinct_rows import distinct_rows
from ..runtime.errors import DivergenceError
from .energy import Energy
from .more_rows import conditions_like
from .reference import Reference
from .scales import scales_of
from .trace import graph_dtype, input_names

__all__ = ["CHAINS", "all_conditions", "distinct_observations", "fresh_conditions", "make_golden", "run_in_pytorch"]

CHAINS = 8
"""Samples at each stage; the batch sizes 1, 3 and 8 are slices of them."""

_ROUNDING = 1e-6
"""Size of a disturbance, relative to the state: some eight units in the last place of float32, as sums collect them."""
_COPIES = 5

_LARGEST_STEP = 2.0**-6
"""Of all steps that are taken, in units of a state's size: BF16's."""

_LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}
_LOW_ROUNDINGS, _LOW_PAIRS = 4.0, 6
"""In a low type the weights are rounded, and each layer's numbers: as many kinks are met as by copies that are some of the type's
roundings away. Found by trial on small networks with relus and max pools; with half of either, some right engine failed."""


_COPIES_IN_LOW = 3
"""One alone may be right by chance: an engine was off by seven times as much as rounded weights, and by once what four tell."""

_LARGEST_SCALE = 2.0**12
"""Of the backward pass in FP16, whose start it is, so that what follows has room; it is divided out again."""

_ANOTHER, _ROUGHER = 1e-3, 10.0
"""Median difference of gradients from which a model in float64 is another one, and the same in units of what a rounding of the state does."""

_LOG = logging.getLogger("ebm_export")

Bounds = tuple[float, float] | None


def make_golden(
    energy: Energy,
    config: SamplerConfig,
    *,
    seed: int = 0,
    data: np.ndarray | None = None,
    trajectory: Trajectory | None = None,
    precisions: Collection[str] = (),
    jumps: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Runs the model's sampler in PyTorch and evaluates it in float64 at stages along the way.

    Where float64 cannot run the model, or makes another function of it, its float32 answers.

    Args:
        energy: the model.
        config: the sampler's settings.
        seed: of the chains, and of what is made up of the conditioning inputs.
        data: states to start from, for init="data".
        trajectory: these chains, where they have been run already.
        precisions: of engines that will be compared; for FP16 and BF16 the answers hold what these types may be off by.
        jumps: whether the model may be another function in float64, see `ScoreGraph.jumps`.
        progress: called with (done, in all).

    Returns:
        The arrays of golden.npz: x [G, N, *S], step [G], rests (whether chains come to rest), grad_scale [G, N] (as the runtime has
        it, see `scales_of`), energy [G, N] and grad [G, N, *S] in float64, reference_error [G, N] (largest relative error of
        PyTorch's own float32 gradient at the state and at copies of it that differ by rounding), reference_energy_error [G, N]
        (likewise, absolute), the same with ".fp16" or ".bf16" behind the name (of the float32 model with its weights in that type,
        or with its products in it where that is more), and "cond.NAME".

    Raises:
        DivergenceError: the chains diverge in PyTorch itself.
    """
    if trajectory is None:
        trajectory = run_in_pytorch(energy, config, seed=seed, data=data, progress=progress)
    return _answer(energy, trajectory, fresh_conditions(energy, CHAINS, seed), precisions, config, jumps)


def run_in_pytorch(
    energy: Energy,
    config: SamplerConfig,
    *,
    seed: int = 0,
    data: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """The chains of the golden states; arguments as for `make_golden`.

    Raises:
        DivergenceError: the chains diverge.
    """
    shape, cond = tuple(energy.x.shape[1:]), fresh_conditions(energy, CHAINS, seed)
    try:
        with FunctionEngine(Reference(energy, torch.float32)) as engine:
            return record_trajectory(engine, config, shape, CHAINS, seed=seed, cond=cond, data=data, progress=progress)
    except DivergenceError as error:
        raise DivergenceError(
            f"{error}; the model itself does so, in PyTorch{_other_sign(energy)}{energy.made_up}"
        ) from error


def _other_sign(energy: Energy) -> str:
    """What may be the reason of chains that leave for no good one."""
    turned = {
        "energy": "a log density is an energy with energy='negative' (--energy negative)",
        "negative": "the model may be an energy and no log density",
    }
    return f": {turned[energy.mode]}" if energy.mode in turned else ""


def fresh_conditions(energy: Energy, count: int, seed: int) -> dict[str, np.ndarray]:
    """Conditioning inputs [count, ...] by graph input name: observations from all over their rows, or others like them where they are few."""
    names = input_names(energy)
    rows = distinct_observations(energy.observations)
    chosen = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)] if len(rows) >= count else rows
    found = {}
    for index, (name, values) in enumerate(energy.observations.items()):
        taken = values[torch.as_tensor(chosen)]
        found[names[name]] = _plain(taken if len(taken) == count else conditions_like(taken, count, seed + index))
    return found


def all_conditions(energy: Energy) -> dict[str, np.ndarray]:
    """The rows of a model's observations as they stand, [R, ...] by graph input name."""
    names = input_names(energy)
    return {names[name]: _plain(rows) for name, rows in energy.observations.items()}


def distinct_observations(observations: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Numbers of the rows, the inputs taken together, that no row before them is equal to."""
    arrays = [_plain(values) for values in observations.values()]
    return distinct_rows(arrays, len(arrays[0]) if arrays else 0)[0]


def _plain(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().to(graph_dtype(tensor)).numpy()


def _answer(
    energy: Energy,
    trajectory: Trajectory,
    cond: dict[str, np.ndarray],
    precisions: Collection[str],
    config: SamplerConfig,
    jumps: bool,
) -> dict[str, np.ndarray]:
    bounds, rests = config.bounds, comes_to_rest(config)
    single = Reference(energy, torch.float32)
    exact = _double(energy, trajectory.x[0], cond)
    if exact is None or (jumps and _is_another(exact, single, trajectory.x, cond)):
        exact = single
    answers = [exact(x, **cond) for x in trajectory.x]
    energies, grads = (np.stack([answer[index].astype(np.float64) for answer in answers]) for index in (0, 1))
    stages = len(trajectory.step)
    found = {
        "x": trajectory.x,
        "step": trajectory.step,
        "rests": np.array(rests),
        "grad_scale": trajectory.grad_scale,
        "energy": energies,
        "grad": grads,
    }
    highest = scales_of(found).highest
    found["grad_scale"] = np.minimum(found["grad_scale"], np.float32(highest))
    found |= _single_errors(single, found, cond, bounds)
    for precision in (name for name in _LOW if name in precisions):
        rounded = Reference(energy, torch.float32, weights=_LOW[precision])
        size = _LOW_ROUNDINGS * torch.finfo(_LOW[precision]).eps / 2
        errors = _low_errors(rounded, found, cond, size, bounds)
        computed = Reference(energy, torch.float32, products=_LOW[precision])
        errors["reference_error"] = np.fmax(
            errors["reference_error"], _computed_errors(computed, single, found, cond, size, bounds)
        )
        found |= {f"{name}.{precision}": array for name, array in errors.items()}
    repeated = {f"cond.{name}": np.broadcast_to(array, (stages, *array.shape)).copy() for name, array in cond.items()}
    return found | repeated


def _single_errors(
    single: Reference, exact: dict[str, np.ndarray], cond: dict[str, np.ndarray], bounds: Bounds
) -> dict[str, np.ndarray]:
    """The largest errors of PyTorch's float32, at each state and at copies of it that differ by what float32 makes of its sums.

    The gradient of a relu jumps where a number is zero. Two correct float32 engines round such a number to different
    sides, so their gradients differ by a whole term; these copies show by how much that can be at these states.
    """
    generator = np.random.default_rng(0)
    grad_errors, energy_errors = [], []
    for x, value, grad in zip(exact["x"], exact["energy"], exact["grad"], strict=True):
        grad_error, energy_error = np.zeros(len(x)), np.zeros(len(x))
        for step in [np.zeros_like(x), *(_ROUNDING * _step(x, generator, bounds) for _ in range(_COPIES))]:
            rough_value, rough = single((x + step).astype(np.float32), **cond)
            grad_error = np.fmax(grad_error, _relative(rough - grad, grad))
            energy_error = np.fmax(energy_error, np.abs(rough_value - value))
        grad_errors.append(grad_error)
        energy_errors.append(energy_error)
    return {"reference_error": np.stack(grad_errors), "reference_energy_error": np.stack(energy_errors)}


def _low_errors(
    rounded: Reference, exact: dict[str, np.ndarray], cond: dict[str, np.ndarray], size: float, bounds: Bounds
) -> dict[str, np.ndarray]:
    """What rounded weights do at each state, and how far its gradient may jump beside it.

    A jump is what the mean of the gradients at x + d and x - d is away from that at x. The curvature, which takes a small
    gradient near a minimum far, is not in it: an engine knows x in float32.
    """
    generator = np.random.default_rng(0)
    grad_errors, energy_errors = [], []
    for x, value, grad in zip(exact["x"], exact["energy"], exact["grad"], strict=True):
        rough_value, rough = rounded(x, **cond)
        jump = np.zeros(len(x))
        for _ in range(_LOW_PAIRS):
            step = (size * _step(x, generator, bounds)).astype(np.float32)
            both = [rounded(x + side * step, **cond)[1] for side in (np.float32(1), np.float32(-1))]
            jump = np.fmax(jump, _relative((both[0] + both[1]) / 2 - rough, grad))
        grad_errors.append(_relative(rough - grad, grad) + jump)
        energy_errors.append(np.abs(rough_value - value))
    return {"reference_error": np.stack(grad_errors), "reference_energy_error": np.stack(energy_errors)}


def _computed_errors(
    computed: Reference,
    single: Reference,
    exact: dict[str, np.ndarray],
    cond: dict[str, np.ndarray],
    size: float,
    bounds: Bounds,
) -> np.ndarray:
    """How far PyTorch is off where it computes in a low type: the most of each state and copies beside it, [G, N].

    What is left of terms that cancel, as near a minimum, is off by what each of these was rounded by; rounded weights alone show
    a tenth of that on some networks. 0 where PyTorch has an operation in this type on no CPU, or a number overflows.
    """
    generator = np.random.default_rng(0)
    found = []
    for x, grad, scale in zip(exact["x"], exact["grad"], exact["grad_scale"], strict=True):
        error = np.zeros(len(x))
        for share in (0.0, *[size / _LOW_ROUNDINGS] * _COPIES_IN_LOW):
            state = (x + share * _step(x, generator, bounds)).astype(np.float32)
            try:
                low = computed(state, grad_scale=np.minimum(scale, np.float32(_LARGEST_SCALE)), **cond)[1]
            except (RuntimeError, TypeError, ValueError):
                return np.zeros(exact["grad_scale"].shape)
            off = _relative(low - single(state, **cond)[1], grad)
            error = np.maximum(error, np.where(np.isfinite(off), off, 0.0))
        found.append(error)
    return np.stack(found)


def _step(x: np.ndarray, generator: np.random.Generator, bounds: Bounds) -> np.ndarray:
    """Normal numbers of the size of each state, 0 where one of x lies so near to the bounds that it could leave them, [N, *S] float64."""
    per_sample = (len(x), *[1] * (x.ndim - 1))
    size = np.sqrt(np.mean(np.square(x.reshape(len(x), -1), dtype=np.float64), axis=1)).reshape(per_sample)
    step = np.asarray(size * generator.standard_normal(x.shape))
    if bounds is None:
        return step
    room = np.minimum(x - bounds[0], bounds[1] - x)
    return np.where(room > np.abs(step) * _LARGEST_STEP, step, 0.0)


def _relative(off: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """[N], lengths of [N, *S] in units of those of the gradients; 0 where there is none."""
    lengths = np.linalg.norm(grad.reshape(len(grad), -1), axis=1)
    return np.divide(
        np.linalg.norm(off.reshape(len(off), -1), axis=1), lengths, out=np.zeros(len(off)), where=lengths > 0
    )


def _is_another(double: Reference, single: Reference, states: np.ndarray, cond: dict[str, np.ndarray]) -> bool:
    """Whether the model is another function in float64, which is said then.

    A parameter that is cut to a whole number, or compared, may fall on the other side: 0.7 * 10 is 7 in float32 and less in float64.
    Rounding alone differs too, and by more where terms cancel; but then from one place to the next beside it as well.
    """
    generator = np.random.default_rng(0)
    apart, rough = [], []
    for x in states:
        own, beside = (
            single((x + step).astype(np.float32), **cond)[1].astype(np.float64)
            for step in (np.zeros_like(x), _ROUNDING * _step(x, generator, None))
        )
        apart.append(_relative(double(x, **cond)[1] - own, own))
        rough.append(_relative(beside - own, own))
    if not np.median(np.concatenate(apart)) > max(_ANOTHER, _ROUGHER * np.median(np.concatenate(rough))):
        return False
    _LOG.warning(
        "in float64 this model has other gradients, by %.2g in the median, as where parameters are rounded, compared or cut to whole "
        "numbers, or random ones are drawn in the type of x: engines are compared with its float32",
        np.median(np.concatenate(apart)),
    )
    return True


def _double(energy: Energy, x: np.ndarray, cond: dict[str, np.ndarray]) -> Reference | None:
    """The model in float64, or None where it cannot run so (a type written into its forward, say)."""
    try:
        reference = Reference(energy, torch.float64)
        reference(x, **cond)
    except (RuntimeError, TypeError, ValueError):
        return None
    return reference
