"""Logarithms of probabilities without the probability."""

from __future__ import annotations

import onnx_ir as ir

from .graph import content, dims, insert, replace

__all__ = ["LogSigmoid"]


class LogSigmoid(ir.passes.InPlacePass):
    """Writes log(sigmoid(z)) and its gradient in forms that hold for every z.

    1. `Log(s)` of `s = Sigmoid(z)` is `-Softplus(-z)`.
    2. `g / s * (s * (1 - s))`, as autograd writes the gradient, is `g * (1 - s)`.
    3. Reshapes between these are carried along. Everything else that reads a sigmoid stays, such as a gradient that is
       summed up from several terms before it gets to `s * (1 - s)`.

    In PyTorch the sigmoid is above zero down to z = -103; onnxruntime's is zero from -18 on, the energy infinite and the
    gradient NaN. The forms here are finite for smaller z than PyTorch's.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Log":
                modified |= self._value(node)
            elif node.op_type == "Mul":
                modified |= self._gradient(node)
        return ir.passes.PassResult(model, modified)

    def _value(self, log: ir.Node) -> bool:
        probability, reshapes = _behind_reshapes(log.inputs[0])
        sigmoid = _made_by(probability, "Sigmoid")
        if sigmoid is None:
            return False
        like = sigmoid.outputs[0]
        value = sigmoid.inputs[0]
        for kind, name in (("Neg", "opposite"), ("Softplus", "softplus"), ("Neg", "negated")):
            value = insert(log, kind, [value], like=like, name=f"{log.name}.{name}")
        replace(log, _reshaped(log, value, reshapes))
        return True

    def _gradient(self, product: ir.Node) -> bool:
        for index in (0, 1):
            quotient, reshapes = _behind_reshapes(product.inputs[index])
            division, slope = _made_by(quotient, "Div"), _made_by(product.inputs[1 - index], "Mul")
            if division is None or slope is None:
                continue
            numerator = division.inputs[0]
            probability, _ = _behind_reshapes(division.inputs[1])
            other = _other_probability(slope, probability)
            # A numerator that the division broadcasts could not be reshaped as its result was.
            if other is None or (reshapes and dims(numerator) != dims(quotient)):
                continue
            if dims(other) != dims(product.outputs[0]):
                continue
            product.replace_input_with(index, _reshaped(product, numerator, reshapes))
            product.replace_input_with(1 - index, other)
            return True
        return False


def _other_probability(slope: ir.Node, probability: ir.Value | None) -> ir.Value | None:
    """1 - s of the product s (1 - s), or None where it is none or s is not the sigmoid that is asked for."""
    if _made_by(probability, "Sigmoid") is None:
        return None
    for index in (0, 1):
        rest = _made_by(slope.inputs[1 - index], "Sub")
        if slope.inputs[index] is probability and rest is not None and rest.inputs[1] is probability:
            one = content(rest.inputs[0])
            if one is not None and one.size == 1 and one.item() == 1:
                return rest.outputs[0]
    return None


def _made_by(value: ir.Value | None, kind: str) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == kind else None


def _behind_reshapes(value: ir.Value | None) -> tuple[ir.Value | None, list[ir.Node]]:
    """What Reshapes were applied to, and these in their order."""
    reshapes: list[ir.Node] = []
    while (reshape := _made_by(value, "Reshape")) is not None:
        reshapes.insert(0, reshape)
        value = reshape.inputs[0]
    return value, reshapes


def _reshaped(before: ir.Node, value: ir.Value | None, reshapes: list[ir.Node]) -> ir.Value:
    """The same Reshapes of another value of the same shape."""
    assert value is not None
    for index, reshape in enumerate(reshapes):
        inputs = [value, *reshape.inputs[1:]]
        value = insert(before, "Reshape", inputs, like=reshape.outputs[0], name=f"{before.name}.reshape_{index}")
    return value
