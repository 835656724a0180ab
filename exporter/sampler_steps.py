"""One step of a sampler as operations of a graph.

Each method is a kernel of `runtime/samplers/`, operation by operation in the same order, so that a backend which computes each
operation as it stands gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..runtime.config import SamplerConfig
from ..runtime.known_scales import LOWEST_SCALE
from .graph_builder import GraphBuilder

__all__ = ["NOISE_FACTOR", "StepWriter"]

NOISE_FACTOR = {"langevin": "sigma", "underdamped": "kick"}
"""The series that a sampler multiplies its noise by before it does anything else with it, for those that do."""


class StepWriter:
    """Appends steps to a graph.

    Args:
        made: the graph.
        score: the score graph; the steps' part where it is split.
        config: the sampler's settings; its sampler has no rejection.
        sizes: shape of x, the batch included.
        conditions: what the score graph takes beside x and the scale, by name.
        highest_scale: where the gradient scale goes on from evaluation to evaluation, its limit; None where it stays what it is.
        scale: [B], the scale of the first evaluation.

    Attributes:
        scale: [B], the scale of the next evaluation.
        last_scale: [B], that of the last one.
        energy: [B] of the last evaluation.
        grads: [B, *S] of each, the gradient as the score graph gives it.
    """

    def __init__(
        self,
        made: GraphBuilder,
        score: ir.Graph,
        config: SamplerConfig,
        sizes: Sequence[int | str],
        conditions: Mapping[str, ir.Value],
        *,
        highest_scale: float | None,
        scale: ir.Value,
    ) -> None:
        self._made, self._score, self._config, self._highest_scale = made, score, config, highest_scale
        self._conditions = dict(conditions)
        self._axes = list(range(1, len(sizes)))
        self._numbers = math.prod(int(size) for size in sizes[1:])
        self.scale = self.last_scale = scale
        self.energy: ir.Value | None = None
        self.grads: list[ir.Value] = []

    def take(self, position: ir.Value, state: dict[str, ir.Value], given: Mapping[str, ir.Value]) -> ir.Value:
        """Appends a step.

        Args:
            position: [B, *S], where it starts.
            state: what `runtime.fused_steps.ports` says by name; replaced by what the step leaves.
            given: the numbers of this step, one number each, and `noise` [B, *S], already times its factor (`NOISE_FACTOR`).

        Returns:
            The new position.
        """
        kernel = {
            "langevin": self._noised if self._config.order == "noise-drift" else self._drifted,
            "preconditioned": self._preconditioned,
            "underdamped": self._underdamped,
            "optimize": self._descended,
        }[self._config.sampler]
        return kernel(position, state, given)

    def evaluate(self, position: ir.Value, state: dict[str, ir.Value]) -> None:
        """Asks the score graph; sets the `grad` of the state and brings the gradient scale to the next evaluation."""
        made = self._made
        self.last_scale = self.scale
        answer = made.inline(self._score, {"x": position, "grad_scale": self.scale, **self._conditions})
        grad = answer["grad"]
        self.grads.append(grad)
        if self._highest_scale is not None:
            squares = self.square_sum(grad)
            each = made.op("Unsqueeze", [self.scale, made.constant(self._axes)])
            self.scale = self._next_scale(self.scale, squares, self._highest_scale)
            grad = made.op("Div", [grad, each])
        state["grad"] = grad
        self.energy = answer["energy"]

    def square_sum(self, grad: ir.Value) -> ir.Value:
        """[B]: the sum of squares of each sample."""
        return self._made.op("ReduceSumSquare", [grad, self._made.constant(self._axes)], keepdims=0)

    def usable(self, squares: ir.Value) -> ir.Value:
        """[B]: whether a sum of squares is above 0 and finite."""
        made = self._made
        above = made.op("Greater", [squares, made.scalar(0.0)])
        return made.op("And", [above, made.op("Less", [squares, made.scalar(float("inf"))])])

    def _next_scale(self, scale: ir.Value, squares: ir.Value, highest: float) -> ir.Value:
        """The rule of `runtime.gradient_scale.next_scale`; where the sum of squares is 0 or not finite the scale is held."""
        made = self._made
        count = self._numbers
        sums = made.op("Where", [self.usable(squares), squares, made.scalar(count)])
        mean = made.op("Add", [made.op("Mul", [sums, made.scalar(0.75 / count)]), made.scalar(0.25)])
        following = made.op("Div", [scale, made.op("Sqrt", [mean])])
        return made.op("Clip", [following, made.scalar(LOWEST_SCALE), made.scalar(highest)])

    def _clipped(self, grad: ir.Value) -> ir.Value:
        made, limit = self._made, self._config.grad_clip
        if limit is None:
            return grad
        if self._config.grad_clip_mode == "value":
            return made.op("Clip", [grad, made.scalar(-limit), made.scalar(limit)])
        squares = made.op("ReduceSumSquare", [grad, made.constant(self._axes)], keepdims=1)
        longest = made.op("Max", [made.op("Sqrt", [squares]), made.scalar(limit)])
        return made.op("Mul", [grad, made.op("Div", [made.scalar(limit), longest])])

    def _confined(self, position: ir.Value, velocity: ir.Value | None = None) -> tuple[ir.Value, ir.Value | None]:
        """What `runtime.samplers.boundary` does."""
        made = self._made
        if self._config.bounds is None:
            return position, velocity
        low, high = (made.scalar(end) for end in self._config.bounds)
        if self._config.bounds_mode == "project":
            if velocity is not None:
                velocity = made.op("Where", [self._outside(position, low, high), made.scalar(0.0), velocity])
            return made.op("Clip", [position, low, high]), velocity
        outside = self._outside(position, low, high)
        width = self._config.bounds[1] - self._config.bounds[0]
        flight = made.op("Sub", [position, low])
        rounds = made.op("Floor", [made.op("Div", [flight, made.scalar(2 * width)])])
        place = made.op("Sub", [flight, made.op("Mul", [rounds, made.scalar(2 * width)])])
        distance = made.op("Abs", [made.op("Sub", [made.scalar(width), place])])
        folded = made.op("Clip", [made.op("Sub", [made.scalar(self._config.bounds[0] + width), distance]), low, high])
        if velocity is not None:
            turned = made.op("And", [outside, made.op("Greater", [place, made.scalar(width)])])
            velocity = made.op("Where", [turned, made.op("Neg", [velocity]), velocity])
        return made.op("Where", [outside, folded, position]), velocity

    def _outside(self, position: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
        made = self._made
        return made.op("Or", [made.op("Less", [position, low]), made.op("Greater", [position, high])])

    def _drifted(self, position: ir.Value, state: dict[str, ir.Value], given: Mapping[str, ir.Value]) -> ir.Value:
        made = self._made
        drift = made.op("Mul", [self._clipped(state["grad"]), given["step_size"]])
        moved = made.op("Add", [given["noise"], position])
        position, _ = self._confined(made.op("Sub", [moved, drift]))
        self.evaluate(position, state)
        return position

    def _noised(self, position: ir.Value, state: dict[str, ir.Value], given: Mapping[str, ir.Value]) -> ir.Value:
        made = self._made
        noised, _ = self._confined(made.op("Add", [given["noise"], position]))
        self.evaluate(noised, state)
        drift = made.op("Mul", [self._clipped(state["grad"]), given["step_size"]])
        position, _ = self._confined(made.op("Sub", [noised, drift]))
        return position

    def _preconditioned(
        self, position: ir.Value, state: dict[str, ir.Value], given: Mapping[str, ir.Value]
    ) -> ir.Value:
        made = self._made
        slope = made.op(
            "Mul", [made.op("Mul", [state["precondition"], given["step_size"]]), self._clipped(state["grad"])]
        )
        kick = made.op(
            "Mul", [made.op("Mul", [made.op("Sqrt", [state["precondition"]]), given["sigma"]]), given["noise"]]
        )
        position, _ = self._confined(made.op("Add", [made.op("Sub", [position, slope]), kick]))
        self.evaluate(position, state)
        return position

    def _underdamped(self, position: ir.Value, state: dict[str, ir.Value], given: Mapping[str, ir.Value]) -> ir.Value:
        made, half = self._made, given["half_step"]

        def pushed(velocity: ir.Value) -> ir.Value:
            return made.op("Sub", [velocity, made.op("Mul", [self._clipped(state["grad"]), half])])

        def flown(velocity: ir.Value, position: ir.Value) -> tuple[ir.Value, ir.Value]:
            ended, turned = self._confined(made.op("Add", [position, made.op("Mul", [velocity, half])]), velocity)
            assert turned is not None
            return ended, turned

        position, velocity = flown(pushed(state["velocity"]), position)
        velocity = made.op("Mul", [velocity, given["kept"]])
        velocity = made.op("Add", [velocity, given["noise"]])
        position, velocity = flown(velocity, position)
        self.evaluate(position, state)
        state["velocity"] = pushed(velocity)
        return position

    def _descended(self, position: ir.Value, state: dict[str, ir.Value], given: Mapping[str, ir.Value]) -> ir.Value:
        made = self._made
        drift = made.op("Mul", [self._clipped(state["grad"]), given["step_size"]])
        velocity = made.op("Sub", [made.op("Mul", [state["velocity"], given["momentum"]]), drift])
        position, turned = self._confined(made.op("Add", [position, velocity]), velocity)
        assert turned is not None
        state["velocity"] = turned
        self.evaluate(position, state)
        return position
