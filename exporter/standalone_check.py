"""Runs a whole chain in one file as another program would, and compares what can be compared without knowing its noise."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..runtime.backends import open_engine
from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
from ..runtime.errors import EbmExportError
from ..runtime.fused_check import first_steps, gap_between, largest_gap, steps_to_compare
from ..runtime.verify import Tolerance, energy_sizes

__all__ = ["StandaloneCheck", "check_standalone"]

_CHAINS = 3
"""Chains of a run; each costs all steps."""


class StandaloneCheck(NamedTuple):
    """What a run found.

    Attributes:
        wrong: what is off, in words that follow the file's name; empty where nothing is.
        found: the manifest's entry: `chains`; `energy_error`, the largest error of a returned energy relative to the spread of the golden
            energies or, where that is more, to a share of its size (`energy_sizes`), and `gap`, how far a chain without noise ends from the
            runtime's in units of its way, the largest; both are at least 0 and best there, and each is at most `allowed_` of the same name; `gap_steps`, the number of steps that this is of. Empty
            where no numbers were compared.
    """

    wrong: str
    found: dict[str, float]


def check_standalone(
    path: Path,
    scratch: Path,
    *,
    exact: Engine,
    engine: Engine,
    golden: Mapping[str, np.ndarray],
    config: SamplerConfig,
    precision: str,
    limits: Tolerance,
    steps: int,
) -> StandaloneCheck:
    """Runs a few chains from where the golden ones start, in onnxruntime.

    1. A copy whose noise has a seed: the shapes, that most chains are finite, and that energies are those of the states that it returns.
    2. A copy that takes the first steps alone, with zeros in the place of its noise: its chains end where the runtime's own do at
       temperature 0. They are not compared to their end. Rounding grows along a chain, more so where gradients have kinks: two right loops
       of a small network of convolutions were 1e-6 of the way apart after 100 steps, and 0.4 after 200. Where they do not end there, and
       rounding alone could be why, fewer steps are compared, see `steps_to_compare`.

    Args:
        path: the file.
        scratch: a folder for the copy.
        exact: the FP32 score graph; open.
        engine: the score graph that the file was made of, as onnxruntime runs it; open.
        golden: as in `verify.check_engine`.
        config: the sampler's settings.
        precision: of the file.
        limits: what its energies may be off by.
        steps: number of steps of the copy, at most those of the chain.
    """
    rows = slice(0, _CHAINS)
    start = np.ascontiguousarray(golden["x"][0][rows])
    cond = {
        name.removeprefix("cond."): np.ascontiguousarray(values[0][rows])
        for name, values in golden.items()
        if name.startswith("cond.")
    }
    copy = onnx.load(path)
    names = [value.name for value in copy.graph.input]
    if sorted(names) != sorted(["x", *cond]):
        return StandaloneCheck(f"takes {', '.join(names)}, expected {', '.join(['x', *cond])}", {})
    taken = _shorten(copy.graph, steps)
    if taken != config.steps:
        return StandaloneCheck(f"takes {taken} steps, expected {config.steps}", {})
    seeded = scratch / f"seeded.{path.name}"
    drawn = onnx.load(path)
    _seed(drawn.graph)
    onnx.save(drawn, seeded)
    _still(copy.graph)
    still = scratch / f"still.{path.name}"
    try:
        sample, energy = _answer(seeded, precision, start, cond)
    except EbmExportError as error:
        return StandaloneCheck(f"does not run: {error}", {})
    for name, got, wanted in (("sample", sample, start.shape), ("energy", energy, start.shape[:1])):
        if got.shape != wanted:
            return StandaloneCheck(f"returns {name!r} of the shape {got.shape}, expected {wanted}", {})

    asked = {"x": sample, "grad_scale": np.ones(_CHAINS, np.float32), **exact.prepare(cond)}
    truth = exact.run(asked)["energy"].astype(np.float64)
    # One chain or another may leave where there is an energy, as it may in our own loop.
    well = np.isfinite(sample).reshape(_CHAINS, -1).all(axis=1) & np.isfinite(energy) & np.isfinite(truth)
    if 2 * np.count_nonzero(well) <= _CHAINS:
        return StandaloneCheck(
            f"returns {_CHAINS - np.count_nonzero(well)} of {_CHAINS} chains whose numbers are not finite", {}
        )
    truth, energy = truth[well], energy[well]
    sizes = energy_sizes(truth, float(np.std(golden["energy"])), limits)
    rounded = golden.get("reference_energy_error" + ("" if precision == "fp32" else f".{precision}"), np.zeros((1, 1)))
    own = np.nan_to_num(rounded[-1], nan=0.0, posinf=0.0).max()  # PyTorch's, where chains end
    allowed = np.maximum(limits.energy_error, limits.reference_factor * own / sizes)
    off = np.abs(energy - truth) / sizes
    worst = int(np.argmax(off / allowed))
    settings, allowed_gap = config.replace(noise=None, temperature=0.0), largest_gap(precision)
    try:
        gap = _gap(engine, settings, start, cond, _saved_answer(copy, still, precision, start, cond), steps)
        known = steps if gap <= allowed_gap else steps_to_compare(engine, settings, start, cond, precision, steps)
        if known < steps:
            steps = known
            _shorten(copy.graph, steps)
            gap = _gap(engine, settings, start, cond, _saved_answer(copy, still, precision, start, cond), steps)
    except EbmExportError as error:
        return StandaloneCheck(f"does not run without its noise: {error}", {})
    found = {
        "chains": int(np.count_nonzero(well)),
        "energy_error": float(off[worst]),
        "allowed_energy_error": float(allowed[worst]),
        "gap": gap,
        "allowed_gap": allowed_gap,
        "gap_steps": steps,
    }
    if not (off <= allowed).all():
        said = "returns another energy than that of its sample: off by {energy_error:.2g} of the spread of energies, allowed {allowed_energy_error:.2g}"
    elif not gap <= allowed_gap:
        said = "leaves the runtime's chain where both have no noise: after {gap_steps} steps by {gap:.2g} of the way, allowed {allowed_gap:g}"
    else:
        said = ""
    return StandaloneCheck(said.format(**found), found)


def _answer(path: Path, precision: str, x: np.ndarray, cond: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    with open_engine("onnxruntime", path, precision=precision) as engine:
        answer = engine.run({"x": x, **cond})
    return answer["sample"], answer["energy"]


def _saved_answer(
    copy: onnx.ModelProto, path: Path, precision: str, x: np.ndarray, cond: Mapping[str, np.ndarray]
) -> np.ndarray:
    onnx.save(copy, path)
    return _answer(path, precision, x, cond)[0]


def _shorten(graph: onnx.GraphProto, steps: int) -> int:
    """Lets the loop over the steps, the last one, take the first of them alone; returns how many it took."""
    loop = [node for node in graph.node if node.op_type == "Loop"][-1]
    stored = next(value for value in graph.initializer if value.name == loop.input[0])
    loop.input[0] = f"{stored.name}.{steps}"
    graph.initializer.append(numpy_helper.from_array(np.array(steps), loop.input[0]))
    return int(numpy_helper.to_array(stored))


def _seed(graph: onnx.GraphProto, first: int = 1) -> int:
    """Gives each source of noise a seed of its own, so that the verdict is the same each time; returns the next seed."""
    for node in graph.node:
        if node.op_type == "RandomNormalLike":
            node.attribute.append(helper.make_attribute("seed", float(first)))
            first += 1
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                first = _seed(attribute.g, first)
    return first


def _still(graph: onnx.GraphProto) -> None:
    """Puts zeros in the place of random numbers."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "RandomNormalLike":  # which onnxruntime ends the process at where its scale is 0
            shape = f"{node.output[0]}.shape"
            graph.node.append(helper.make_node("Shape", node.input, [shape]))
            graph.node.append(helper.make_node("ConstantOfShape", [shape], node.output))
            continue
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _still(attribute.g)
        graph.node.append(node)


def _gap(
    engine: Engine,
    config: SamplerConfig,
    start: np.ndarray,
    cond: Mapping[str, np.ndarray],
    ends: np.ndarray,
    steps: int,
) -> float:
    """How far chains end from those of the runtime's loop, as in `gap_between`."""
    (last,) = deque(first_steps(engine, config, start, cond, steps), maxlen=1)
    return gap_between(last.state.position, ends, start)
