"""Puts K steps of a sampler into one graph around the score graph, so that an engine takes them in one call.

The steps are written out and not a Loop: engines compile across them, and with OpenVINO a step of a small perceptron took 4 us so.
Inputs and outputs have the names of `runtime/fused_steps.py`.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..runtime.config import SamplerConfig
from ..runtime.fused_steps import EACH, ports
from .graph_builder import GraphBuilder
from .passes.graph import dims
from .sampler_steps import NOISE_FACTOR, StepWriter

__all__ = ["sampler_graph"]


def sampler_graph(
    score: ir.Model,
    config: SamplerConfig,
    steps: int,
    *,
    highest_scale: float | None,
    each: bool = False,
    energies: bool = False,
) -> ir.Model:
    """Builds the graph of K steps.

    Args:
        score: a score graph in any precision; the steps' part where it is split. Not changed.
        config: its sampler without rejection, its clipping and its bounds become part of the graph. Everything that may change over
            the steps is an input.
        steps: K, at least 1.
        highest_scale: where the gradient scale goes on from step to step in the graph, its limit; None where `grad_scale` is
            used as it is.
        each: whether it has outputs that tell of each step (`runtime.fused_steps.EACH`).
        energies: whether energies are told in any case, as nothing else shows that one is infinite (`passes.infinite_energy`).

    Returns:
        A model with the inputs and outputs of `runtime.fused_steps.ports`, and the score graph's conditions and features.
    """
    made = GraphBuilder(score, "sampler")
    wanted = ports(config.sampler, config.order)
    sizes = dims(next(value for value in score.graph.inputs if value.name == "x")) or ()
    batch = sizes[0]
    position = made.input("x", sizes)
    state = {name: made.input(f"sampler.{name}", sizes) for name in wanted.state}
    numbers = {name: made.input(f"sampler.{name}", [steps]) for name in wanted.series}
    noise = made.input("sampler.noise", [steps, *sizes]) if wanted.noise else None
    factor = NOISE_FACTOR.get(config.sampler)
    if noise is not None and factor is not None:  # for all steps at once
        factors = made.op("Unsqueeze", [numbers.pop(factor), made.constant(range(1, 1 + len(sizes)))])
        noise = made.op("Mul", [noise, factors])
    series = {name: made.split(value, steps) for name, value in numbers.items()}
    conditions = {
        value.name or "": made.input_like(value)
        for value in score.graph.inputs
        if value.name not in ("x", "grad_scale")
    }
    scale = made.input("grad_scale", [batch])
    writer = StepWriter(made, score.graph, config, sizes, conditions, highest_scale=highest_scale, scale=scale)
    places: list[ir.Value] = []
    found: list[ir.Value] = []
    for step in range(steps):
        given = {name: values[step] for name, values in series.items()}
        if noise is not None:
            given["noise"] = made.op("Gather", [noise, made.index(step)], axis=0)
        position = writer.take(position, state, given)
        assert writer.energy is not None
        places.append(position)
        found.append(writer.energy)
    made.output("sampler.next.x", position, sizes)
    for name in ("grad", "velocity"):
        if name in state:  # "grad" is, after an evaluation
            made.output(f"sampler.next.{name}", state[name], sizes)
    if highest_scale is not None:
        made.output("sampler.grad_scale", writer.last_scale, [batch])
        made.output("sampler.next.grad_scale", writer.scale, [batch])
    made.output("sampler.energy", found[-1], [batch])

    def stacked(values: list[ir.Value]) -> ir.Value:
        return made.op("Concat", [made.op("Unsqueeze", [value, made.constant([0])]) for value in values], axis=0)

    if each:
        # Beside each other and turned, not behind each other: OpenVINO 2026.4 lets a state live inside of a Concat on the first axis, and
        # where a Transpose before a convolution reads that state too, later steps are taken from something else.
        beside = made.op("Concat", [made.op("Unsqueeze", [place, made.constant([1])]) for place in places], axis=1)
        turned = made.op("Transpose", [beside], perm=(1, 0, *range(2, len(sizes) + 1)))
        made.output(EACH[0], turned, [steps, batch, *sizes[1:]])
    if each or energies:
        made.output(EACH[1], stacked(found), [steps, batch])
    if highest_scale is not None or config.grad_clip is not None or config.bounds is not None:
        # Elsewhere a gradient that is not finite leads to a position that is not.
        squares = stacked([writer.square_sum(grad) for grad in writer.grads])
        made.output("sampler.squares", squares, [steps, batch])
    model = made.model()
    RemoveUnusedNodesPass()(model)  # else nobody reads the energies on the way
    return model
