"""Looks for the gradient scale that a chain begins with, inside a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..runtime.config import SamplerConfig
from ..runtime.gradient_scale import OVERSHOOT, SETTLED, SMALLEST, STRIDE, TRIES
from ..runtime.known_scales import LOWEST_SCALE, KnownScales
from .graph_builder import GraphBuilder
from .sampler_steps import StepWriter

__all__ = ["search_scale"]


def search_scale(
    made: GraphBuilder,
    score: ir.Graph,
    config: SamplerConfig,
    sizes: Sequence[int | str],
    conditions: Mapping[str, ir.Value],
    start: ir.Value,
    scales: KnownScales,
) -> ir.Value:
    """Appends a Loop that does what `runtime.gradient_scale.ScaledScore` does at its first call, [B].

    Each round evaluates the start with a scale, and says whether that one fits or which is next. The first, with the usual
    scale, always says which is next. It ends with the round in which every chain's fits, at the latest with that of the last try.

    Args:
        made: the graph.
        score: the score graph; the steps' part where it is split.
        config: the sampler's settings.
        sizes: shape of x, the batch included.
        conditions: what the score graph takes beside x and the scale, by name.
        start: [B, *S].
        scales: where it begins, and the highest.
    """
    body = made.body("search")
    numbers = math.prod(int(size) for size in sizes[1:])
    shape = [sizes[0]]
    batch = made.op("Shape", [start], start=0, end=1)
    usual = made.op("Expand", [made.scalar(scales.usual), batch])
    none = made.op("Expand", [made.stored(np.array(False)), batch])

    index = body.input("search/index", [], ir.DataType.INT64)
    body.input("search/going", [], ir.DataType.BOOL)
    scale = body.input("search/scale", shape)
    settled = body.input("search/settled", shape, ir.DataType.BOOL)
    body.input("search/lost", shape, ir.DataType.BOOL)
    too_small, too_large = body.input("search/small", shape), body.input("search/large", shape)

    writer = StepWriter(body, score, config, sizes, conditions, highest_scale=None, scale=scale)
    writer.evaluate(start, {})
    squares = writer.square_sum(writer.grads[-1])
    size = body.op("Sqrt", [body.op("Div", [squares, made.scalar(float(numbers))])])
    usable = writer.usable(squares)
    # The formula of `first_scale`.
    tiny = body.op("Less", [size, made.scalar(SMALLEST)])
    telling = body.op("And", [usable, body.op("Not", [tiny])])
    divisor = body.op("Where", [telling, size, made.scalar(1.0)])
    stride = body.op("Where", [tiny, made.scalar(STRIDE), made.scalar(1 / STRIDE)])
    factor = body.op("Where", [telling, made.scalar(1.0), stride])
    new = body.op("Mul", [body.op("Div", [scale, divisor]), factor])
    new = body.op("Clip", [new, made.scalar(LOWEST_SCALE), made.scalar(scales.highest)])

    later = body.op("Greater", [index, made.index(0)])
    low, high = (made.scalar(end) for end in SETTLED)
    overshot = body.op("And", [later, body.op("Greater", [size, high])])
    new = body.op("Mul", [new, body.op("Where", [overshot, made.scalar(1 / OVERSHOOT), made.scalar(1.0)])])
    fits_or_less = body.op("Or", [body.op("LessOrEqual", [size, high]), body.op("Not", [later])])
    too_large = body.op("Where", [fits_or_less, too_large, body.op("Min", [too_large, scale])])
    less = body.op("And", [later, body.op("Less", [size, low])])
    too_small = body.op("Where", [less, body.op("Max", [too_small, scale]), too_small])
    outside = body.op("Or", [body.op("LessOrEqual", [new, too_small]), body.op("GreaterOrEqual", [new, too_large])])
    below, above = made.scalar(0.0), made.scalar(math.inf)
    known = body.op("And", [body.op("Greater", [too_small, below]), body.op("Less", [too_large, above])])
    middle = body.op("Mul", [body.op("Sqrt", [too_small]), body.op("Sqrt", [too_large])])
    new = body.op("Where", [body.op("And", [outside, known]), middle, new])
    at_the_highest = body.op("GreaterOrEqual", [scale, made.scalar(scales.highest)])
    large = body.op("Or", [body.op("GreaterOrEqual", [size, low]), at_the_highest])
    fits = body.op("And", [large, body.op("LessOrEqual", [size, high])])
    settled = body.op("Or", [settled, body.op("And", [later, fits])])
    stays = body.op("Or", [settled, body.op("Equal", [index, made.index(TRIES)])])
    open_ones = body.op(
        "ReduceMax", [body.op("Cast", [body.op("Not", [settled])], to=ir.DataType.INT64.value)], keepdims=0
    )
    body.output("search/still_going", body.op("Greater", [open_ones, made.index(0)]), [], ir.DataType.BOOL)
    body.output("search/next_scale", body.op("Where", [stays, scale, new]), shape)
    body.output("search/next_settled", settled, shape, ir.DataType.BOOL)
    body.output("search/next_lost", body.op("Not", [usable]), shape, ir.DataType.BOOL)
    body.output("search/next_small", too_small, shape)
    body.output("search/next_large", too_large, shape)

    rounds, always = made.stored(np.array(TRIES + 1, np.int64)), made.stored(np.array(True))
    ends = [made.op("Expand", [made.scalar(end), batch]) for end in (0.0, math.inf)]
    found, _, lost, _, _ = made.ops("Loop", [rounds, always, usual, none, none, *ends], 5, body=body.graph)
    # A gradient that is zero at every scale is zero; the largest scale would make the next one overflow.
    return made.op("Where", [lost, usual, found])
