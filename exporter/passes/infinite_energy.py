"""Whether an energy may be infinite where its gradient is not, as that of a hard wall is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import content

__all__ = ["may_be_infinite_alone"]

_FINITE = """
Abs Add Conv ConvTranspose CumSum Einsum Gemm MatMul Max Mean Min Mul Neg Sub Sum
ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare
AveragePool GlobalAveragePool GlobalMaxPool MaxPool
Atan Ceil Clip Cos Elu Erf Floor Gelu HardSigmoid HardSwish LeakyRelu LogSoftmax Mish PRelu Relu Round Selu Sigmoid Sign Sin Softmax
Softplus Softsign Tanh
And ArgMax ArgMin Equal Greater GreaterOrEqual Less LessOrEqual Not Or Where
Cast Concat Constant ConstantOfShape DepthToSpace DequantizeLinear Expand Flatten Gather GatherElements GatherND Identity Pad
QuantizeLinear Range Reshape Shape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze
"""
_KEEP_FINITE = frozenset(_FINITE.split())
"""Operations whose results are finite where their inputs are, but for sums that overflow."""


_MAKES_FINITE = frozenset(
    {
        "Clip",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Sigmoid",
        "Softmax",
        "Tanh",
    }
)
"""Operations behind which an infinity is none, as it is none behind a Clip with two bounds: a mask of -inf before a softmax, and the question whether a row is all masked."""


def may_be_infinite_alone(score: ir.Graph) -> bool:
    """Whether the energy of a score graph may be infinite, or no number, while its gradient is finite.

    It may where a constant is (a wall), and where operations that the gradient has no use for have a pole, such as the logarithm of a
    number that was detached. Elsewhere it would have to overflow float32 on its way from numbers that the gradient is made of.

    Args:
        score: with the outputs "energy" and "grad".
    """
    energy, grad = ([value for value in score.outputs if value.name == name] for name in ("energy", "grad"))
    infinite = {value for value in score.initializers.values() if not _finite(content(value))}
    for node in score:
        stored = node.attributes.get("value")  # of a Constant or a ConstantOfShape
        own = stored is not None and not _finite(stored.as_tensor().numpy())
        if own or (not _makes_finite(node) and any(value in infinite for value in node.inputs)):
            infinite.update(node.outputs)
    if not infinite.isdisjoint(energy):
        return True
    return any(node.op_type not in _KEEP_FINITE for node in _behind(energy) - _behind(grad))


def _makes_finite(node: ir.Node) -> bool:
    if node.op_type != "Clip":
        return node.op_type in _MAKES_FINITE
    bounds = [content(value) for value in node.inputs[1:]]  # either may be left out
    return len(bounds) == 2 and all(bound is not None and _finite(bound) for bound in bounds)


def _finite(array: np.ndarray | None) -> bool:
    return array is None or array.dtype.kind in "biu" or bool(np.isfinite(array.astype(np.float32)).all())


def _behind(values: list[ir.Value]) -> set[ir.Node]:
    """The nodes that some values are computed by."""
    found: set[ir.Node] = set()
    left = [node for value in values if (node := value.producer()) is not None]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += [before for value in node.inputs if value is not None and (before := value.producer()) is not None]
    return found
