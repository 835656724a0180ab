"""A whole chain in one ONNX file, noise included, for programs that have an ONNX runtime and nothing of ours.

Inputs: `x` [B, *S] float32, where chains start, and the conditioning inputs. Outputs: `sample` [B, *S], and `energy` [B] of it. The
bundle's sampler settings are constants of the graph. Its noise comes from the runtime's own generator (`RandomNormalLike`
without a seed), so that samples follow the same distribution as ours and are other ones at every call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..runtime.config import SamplerConfig
from ..runtime.fused_steps import FUSABLE, ports, series_of
from ..runtime.known_scales import KnownScales
from ..runtime.method import warm_up_steps
from ..runtime.schedule import temperature_schedule
from .graph_builder import GraphBuilder
from .passes.dependence import VARYING_INPUTS
from .passes.graph import dims
from .sampler_steps import NOISE_FACTOR, StepWriter
from .scale_search import search_scale
from .split import Split, split

__all__ = ["standalone_sampler", "why_not_standalone"]


def why_not_standalone(config: SamplerConfig, precision: str, schedule: str = "") -> str | None:
    """None where a sampler, a precision and its schedule over the steps can be one file, else a sentence that says why not."""
    if config.sampler not in FUSABLE:
        return f"the sampler {config.sampler!r} accepts and rejects"
    if config.sampler == "preconditioned" and warm_up_steps(config):
        return "the sampler 'preconditioned' learns in its warm-up"
    if precision == "bf16":
        return "few ONNX runtimes compute in BF16"
    if schedule:
        return f"its chains change their precision ({schedule})"
    return None


def standalone_sampler(
    model: ir.Model | Split, config: SamplerConfig, *, scales: KnownScales | None, conditions: Sequence[ir.Value] = ()
) -> ir.Model:
    """Builds the graph: the prologue, the search for the first scale, the first evaluation, and a Loop over the steps.

    Args:
        model: the score graph, whole or in its two halves; not changed. What does not depend on x comes before the steps in any case.
        config: the sampler's settings, for which `why_not_standalone` is None.
        scales: what is known of the gradient scales; None where gradients need none.
        conditions: inputs that there are in any case, among them what halves do not read.
    """
    halves = model if isinstance(model, Split) else split(model)
    source = model.score if isinstance(model, Split) else model
    score = source.graph if halves is None else halves.score.graph
    prologue = None if halves is None else halves.prologue.graph
    made = GraphBuilder(source, "chain")
    wanted = ports(config.sampler, config.order)
    sizes = dims(next(value for value in score.inputs if value.name == "x")) or ()
    start = made.input("x", sizes)
    graphs = (graph for graph in (prologue, score) if graph is not None)
    inputs = {
        value.name or "": value for values in (conditions, *(graph.inputs for graph in graphs)) for value in values
    }
    for name in (*VARYING_INPUTS, *(value.name or "" for value in (() if prologue is None else prologue.outputs))):
        inputs.pop(name, None)
    given_once = {name: made.input_like(value) for name, value in inputs.items()}
    if prologue is not None:
        given_once |= made.inline(prologue, given_once)
    first = {name: given_once[name] for name in (value.name or "" for value in score.inputs) if name in given_once}
    ones = made.op("Expand", [made.scalar(1.0), made.op("Shape", [start], start=0, end=1)])
    scale, highest_scale = ones, None
    if scales is not None:
        scale, highest_scale = search_scale(made, score, config, sizes, first, start, scales), scales.highest
    state: dict[str, ir.Value] = {}
    if wanted.state:
        writer = StepWriter(made, score, config, sizes, first, highest_scale=highest_scale, scale=scale)
        writer.evaluate(start, state)
        scale = writer.scale
    if "velocity" in wanted.state:
        still = made.op("Mul", [start, made.scalar(0.0)])
        heat = float(np.sqrt(temperature_schedule(config)[0])) if config.sampler == "underdamped" else 0.0
        noise = made.op("RandomNormalLike", [start])
        state["velocity"] = made.op("Mul", [noise, made.scalar(heat)]) if heat > 0 else still
    if "precondition" in wanted.state:
        state["precondition"] = made.op("Add", [made.op("Mul", [start, made.scalar(0.0)]), made.scalar(1.0)])
    carried = [start, *(state[name] for name in wanted.state if name != "precondition")]
    names = ["x", *(name for name in wanted.state if name != "precondition")]
    if highest_scale is not None:
        carried.append(scale)
        names.append("scale")

    body = made.body("step")
    index = body.input("step/index", [], ir.DataType.INT64)
    going = body.input("step/going", [], ir.DataType.BOOL)
    held = {name: body.input(f"step/{name}", [sizes[0]] if name == "scale" else sizes) for name in names}
    inner = StepWriter(body, score, config, sizes, first, highest_scale=highest_scale, scale=held.get("scale", ones))
    inner_state = {name: held[name] for name in wanted.state if name in held}
    if "precondition" in wanted.state:
        inner_state["precondition"] = state["precondition"]
    given = {
        name: body.op("Gather", [made.stored(numbers), index], axis=0)
        for name, numbers in series_of(config, wanted.series).items()
    }
    if wanted.noise:
        noise, factor = body.op("RandomNormalLike", [held["x"]]), NOISE_FACTOR.get(config.sampler)
        given["noise"] = noise if factor is None else body.op("Mul", [noise, given[factor]])
    position = inner.take(held["x"], inner_state, given)
    body.output("step/still_going", going, [], ir.DataType.BOOL)
    body.output("step/next_x", position, sizes)
    for name in names[1:]:
        value = inner.scale if name == "scale" else inner_state[name]
        body.output(f"step/next_{name}", value, [sizes[0]] if name == "scale" else sizes)

    trips = made.stored(np.array(config.steps, np.int64))
    always = made.stored(np.array(True))
    results = made.ops("Loop", [trips, always, *carried], len(carried), body=body.graph)
    sample = results[0]
    last = StepWriter(made, score, config, sizes, first, highest_scale=None, scale=ones)
    last.evaluate(sample, {})
    made.output("sample", sample, sizes)
    assert last.energy is not None
    made.output("energy", last.energy, sizes[:1])
    return made.model()
