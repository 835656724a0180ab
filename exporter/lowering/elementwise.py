"""Elementwise operations."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from .emitter import ONNX_TYPES
from .narrow import is_entry
from .table import RULES, Context, lowers

__all__: list[str] = []

aten = torch.ops.aten
BOOL = ir.DataType.BOOL

_UNARY = {
    aten.abs.default: "Abs",
    aten.neg.default: "Neg",
    aten.exp.default: "Exp",
    aten.log.default: "Log",
    aten.sqrt.default: "Sqrt",
    aten.reciprocal.default: "Reciprocal",
    aten.sigmoid.default: "Sigmoid",
    aten.tanh.default: "Tanh",
    aten.erf.default: "Erf",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.tan.default: "Tan",
    aten.asin.default: "Asin",
    aten.acos.default: "Acos",
    aten.atan.default: "Atan",
    aten.sinh.default: "Sinh",
    aten.cosh.default: "Cosh",
    aten.asinh.default: "Asinh",
    aten.acosh.default: "Acosh",
    aten.atanh.default: "Atanh",
    aten.floor.default: "Floor",
    aten.ceil.default: "Ceil",
    aten.round.default: "Round",
    aten.sign.default: "Sign",
}

_BINARY = {
    aten.mul.Tensor: "Mul",
    aten.mul.Scalar: "Mul",
    aten.div.Tensor: "Div",
    aten.div.Scalar: "Div",
    aten.maximum.default: "Max",
    aten.minimum.default: "Min",
}

_OF_TRUTHS = {"Mul": "And", "Max": "Or", "Min": "And"}
"""What arithmetic means for booleans, which ONNX's arithmetic does not take."""

_COMPARE = {
    aten.gt: "Greater",
    aten.ge: "GreaterOrEqual",
    aten.lt: "Less",
    aten.le: "LessOrEqual",
    aten.eq: "Equal",
}

_LOGICAL = {
    aten.logical_and.default: "And",
    aten.logical_or.default: "Or",
    aten.logical_xor.default: "Xor",
    aten.bitwise_and.Tensor: "And",
    aten.bitwise_or.Tensor: "Or",
    aten.bitwise_xor.Tensor: "Xor",
    aten.bitwise_and.Scalar: "And",
    aten.bitwise_or.Scalar: "Or",
    aten.bitwise_xor.Scalar: "Xor",
}


def _unary(kind: str) -> Any:
    def rule(context: Context, x: Node) -> ir.Value:
        return context.op(kind, context.value(x, context.dtype))

    return rule


def _binary(kind: str) -> Any:
    def rule(context: Context, a: Any, b: Any) -> ir.Value:
        own = _OF_TRUTHS[kind] if context.dtype == BOOL else kind
        return context.op(own, context.value(a, context.dtype), context.value(b, context.dtype))

    return rule


def _common(a: Any, b: Any) -> ir.DataType:
    """Type in which PyTorch compares two arguments."""
    operands = [argument.meta["val"] if isinstance(argument, Node) else argument for argument in (a, b)]
    return ONNX_TYPES[torch.result_type(*operands)]


def _compare(kind: str) -> Any:
    def rule(context: Context, a: Any, b: Any) -> ir.Value:
        common = _common(a, b)
        if common == BOOL and kind != "Equal":
            common = ir.DataType.INT32
        return context.op(kind, context.value(a, common), context.value(b, common))

    return rule


def _logical(kind: str) -> Any:
    def rule(context: Context, a: Any, b: Any) -> ir.Value:
        if context.dtype != BOOL:
            return context.op(f"Bitwise{kind}", context.value(a, context.dtype), context.value(b, context.dtype))
        return context.op(kind, context.value(a, BOOL), context.value(b, BOOL))

    return rule


RULES.update({operation: _unary(kind) for operation, kind in _UNARY.items()})
RULES.update({operation: _binary(kind) for operation, kind in _BINARY.items()})
RULES.update({operation: _logical(kind) for operation, kind in _LOGICAL.items()})
for _packet, _kind in _COMPARE.items():
    RULES[_packet.Tensor] = RULES[_packet.Scalar] = _compare(_kind)


@lowers(aten.ne.Tensor, aten.ne.Scalar)
def _not_equal(context: Context, a: Any, b: Any) -> ir.Value:
    common = _common(a, b)
    return context.op("Not", context.op("Equal", context.value(a, common), context.value(b, common)))


@lowers(aten.logical_not.default, aten.bitwise_not.default)
def _not(context: Context, x: Node) -> ir.Value:
    if context.dtype != BOOL:
        return context.op("BitwiseNot", context.value(x))
    return context.op("Not", context.value(x, BOOL))


@lowers(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar)
def _add(context: Context, a: Any, b: Any, alpha: Any = 1) -> ir.Value:
    left, right = context.value(a, context.dtype), context.value(b, context.dtype)
    if context.dtype == BOOL:
        return context.op("Or", left, right)
    if alpha != 1:
        shape = context.shape_of(b) if isinstance(b, Node) else ()
        right = context.op("Mul", right, context.value(alpha), shape=shape)
    return context.op("Add" if context.node.target in (aten.add.Tensor, aten.add.Scalar) else "Sub", left, right)


@lowers(aten.rsub.Scalar, aten.rsub.Tensor)
def _reversed_sub(context: Context, a: Any, b: Any, alpha: Any = 1) -> ir.Value:
    left = context.value(a, context.dtype)
    if alpha != 1:
        left = context.op("Mul", left, context.value(alpha), shape=context.shape_of(a))
    return context.op("Sub", context.value(b, context.dtype), left)


@lowers(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _rounded_div(context: Context, a: Any, b: Any, rounding_mode: str | None = None) -> ir.Value:
    integral = context.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    left, right = context.value(a, context.dtype), context.value(b, context.dtype)
    quotient = context.op("Div", left, right)
    if rounding_mode == "floor" and integral:  # ONNX divides integers towards zero
        remainder = context.op("Mod", left, right)
        return context.op("Div", context.op("Sub", left, remainder), right)
    if rounding_mode == "floor":
        return context.op("Floor", quotient)
    return _towards_zero(context, quotient) if rounding_mode == "trunc" and not integral else quotient


def _towards_zero(context: Context, value: ir.Value) -> ir.Value:
    whole = context.op("Floor", context.op("Abs", value))
    return context.op("Mul", context.op("Sign", value), whole)


@lowers(aten.trunc.default)
def _trunc(context: Context, x: Node) -> ir.Value:
    return _towards_zero(context, context.value(x))


@lowers(aten.remainder.Tensor, aten.remainder.Scalar, aten.fmod.Tensor, aten.fmod.Scalar)
def _remainder(context: Context, a: Any, b: Any) -> ir.Value:
    # Spelled out: ONNX Mod of floats exists only in its fmod form, and not every engine has it.
    left, right = context.value(a, context.dtype), context.value(b, context.dtype)
    if context.dtype != ir.DataType.FLOAT:
        return context.op("Mod", left, right, fmod=int(context.node.target in (aten.fmod.Tensor, aten.fmod.Scalar)))
    quotient = context.op("Div", left, right)
    truncates = context.node.target in (aten.fmod.Tensor, aten.fmod.Scalar)
    whole = _towards_zero(context, quotient) if truncates else context.op("Floor", quotient)
    return context.op("Sub", left, context.op("Mul", whole, right))


@lowers(aten.rsqrt.default)
def _rsqrt(context: Context, x: Node) -> ir.Value:
    return context.op("Reciprocal", context.op("Sqrt", context.value(x, context.dtype)))


@lowers(aten.expm1.default)
def _expm1(context: Context, x: Node) -> ir.Value:
    # exp(x) - 1 = tanh(x / 2) * (exp(x) + 1), which does not cancel near zero.
    value = context.value(x, context.dtype)
    half = context.op("Tanh", context.op("Mul", value, context.value(0.5)))
    return context.op("Mul", half, context.op("Add", context.op("Exp", value), context.value(1.0)))


@lowers(aten.log1p.default)
def _log1p(context: Context, x: Node) -> ir.Value:
    if x.target is aten.exp.default:  # as PyTorch takes softplus apart
        softplus = context.op("Softplus", context.value(x.args[0], context.dtype))
        return _with_a_tail(context, softplus, context.value(x)) if _is_divided_by(context.node) else softplus
    # log(1 + x) loses what 1 + x rounds off; times x / ((1 + x) - 1) it is there again (Goldberg, "What every computer scientist
    # should know about floating-point arithmetic", 1991, theorem 4).
    value, one = context.value(x, context.dtype), context.value(1.0)
    above = context.op("Add", value, one)
    kept = context.op("Sub", above, one)
    tiny = context.op("Equal", kept, context.value(0.0), dtype=BOOL)
    large = context.op(
        "Greater", value, context.value(1e6), dtype=BOOL
    )  # nothing is lost there, and infinity / infinity is no number
    ratio = context.op("Div", value, context.op("Where", tiny, one, kept))
    factor = context.op("Where", large, one, ratio)
    return context.op("Where", tiny, value, context.op("Mul", context.op("Log", above), factor))


_LOGARITHMS = {aten.log.default, aten.log2.default, aten.log10.default}
_AS_LARGE = {
    aten.where.self, aten.mul.Tensor, aten.div.Tensor, aten.view.default, aten.reshape.default, aten.select.int,
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims,
}  # fmt: skip


def _is_divided_by(node: Node) -> bool:
    """Whether a logarithm is taken of a number, or something divided by it, so that its last bits count where it is tiny."""
    return any(
        user.target in _LOGARITHMS
        or (user.target is aten.div.Tensor and user.args[1] is node)
        or (user.target in _AS_LARGE and _is_divided_by(user))
        for user in node.users
    )


def _with_a_tail(context: Context, softplus: ir.Value, power: ir.Value) -> ir.Value:
    """log(1 + u) of u = exp(x): OpenVINO's Softplus, off by 1e-6, is zero from x = -17 on.

    Below u = 0.05 it is the first four terms of the series, u - u^2 / 2 + u^3 / 3 - u^4 / 4, whose rest is 1.3e-6 of it.
    """
    series = context.value(1 / 4)
    for term in (1 / 3, 1 / 2, 1.0):
        series = context.op("Sub", context.value(term), context.op("Mul", power, series))
    small = context.op("Less", power, context.value(0.05), dtype=BOOL)
    return context.op("Where", small, context.op("Mul", power, series), softplus)


@lowers(aten.log2.default, aten.log10.default)
def _log_base(context: Context, x: Node) -> ir.Value:
    base = 2.0 if context.node.target is aten.log2.default else 10.0
    return context.op("Mul", context.op("Log", context.value(x, context.dtype)), context.value(1 / math.log(base)))


@lowers(aten.exp2.default)
def _exp2(context: Context, x: Node) -> ir.Value:
    return context.op("Exp", context.op("Mul", context.value(x, context.dtype), context.value(math.log(2.0))))


@lowers(aten.pow.Tensor_Scalar)
def _pow_scalar(context: Context, x: Node, exponent: Any) -> ir.Value:
    value = context.value(x, context.dtype)
    if exponent == 0.5:
        return context.op("Sqrt", value)
    if exponent == -0.5:
        return context.op("Reciprocal", context.op("Sqrt", value))
    if float(exponent).is_integer() and 1 <= abs(exponent) <= 8:
        # By squaring: engines that compute pow as exp(y log x) give NaN for a negative base.
        power, square, n = None, value, abs(int(exponent))
        while n:
            if n & 1:
                power = square if power is None else context.op("Mul", power, square)
            n >>= 1
            if n:
                square = context.op("Mul", square, square)
        assert power is not None
        return power if exponent > 0 else context.op("Reciprocal", power)
    return context.op("Pow", value, context.value(exponent, context.dtype))


@lowers(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _pow(context: Context, base: Any, exponent: Any) -> ir.Value:
    return context.op("Pow", context.value(base, context.dtype), context.value(exponent, context.dtype))


@lowers(aten.where.self)
def _where(context: Context, condition: Node, a: Any, b: Any) -> ir.Value:
    choice, yes, no = context.value(condition, BOOL), context.value(a, context.dtype), context.value(b, context.dtype)
    if context.dtype != BOOL:
        return context.op("Where", choice, yes, no)
    # onnxruntime's CPU provider chooses between numbers only.
    other = context.op("Not", choice, shape=context.shape_of(condition))
    return context.op("Or", context.op("And", choice, yes), context.op("And", other, no))


@lowers(aten.relu.default)
def _relu(context: Context, x: Node) -> ir.Value:
    if context.dtype == ir.DataType.FLOAT:
        return context.op("Relu", context.value(x))
    return context.op("Max", context.value(x), context.value(0))  # engines have Relu of floats only


@lowers(aten.clamp.default)
def _clamp(context: Context, x: Node, minimum: Any = None, maximum: Any = None) -> ir.Value:
    low = None if minimum is None else context.value(minimum)
    high = None if maximum is None else context.value(maximum)
    return context.op("Clip", context.value(x, context.dtype), low, high)


@lowers(aten.clamp.Tensor)
def _clamp_tensor(context: Context, x: Node, minimum: Node | None = None, maximum: Node | None = None) -> ir.Value:
    value = context.value(x, context.dtype)
    if minimum is not None:
        value = context.op("Max", value, context.value(minimum, context.dtype))
    if maximum is not None:
        value = context.op("Min", value, context.value(maximum, context.dtype))
    return value


@lowers(aten.clamp_min.default)
def _clamp_min(context: Context, x: Node, minimum: Any) -> ir.Value:
    return context.op("Clip", context.value(x, context.dtype), context.value(minimum), None)


@lowers(aten.clamp_max.default)
def _clamp_max(context: Context, x: Node, maximum: Any) -> ir.Value:
    return context.op("Clip", context.value(x, context.dtype), None, context.value(maximum))


@lowers(aten.leaky_relu.default)
def _leaky_relu(context: Context, x: Node, slope: float = 0.01) -> ir.Value:
    return context.op("LeakyRelu", context.value(x), alpha=float(slope))


@lowers(aten.hardtanh.default)
def _hardtanh(context: Context, x: Node, low: float = -1.0, high: float = 1.0) -> ir.Value:
    return context.op("Clip", context.value(x), context.value(low), context.value(high))


@lowers(aten.isnan.default)
def _isnan(context: Context, x: Node) -> ir.Value:
    return context.op("IsNaN", context.value(x, ir.DataType.FLOAT))


@lowers(aten.isinf.default)
def _isinf(context: Context, x: Node) -> ir.Value:
    return context.op("IsInf", context.value(x, ir.DataType.FLOAT))


@lowers(aten._to_copy.default)
def _cast(context: Context, x: Node, **_: Any) -> ir.Value:
    if is_entry(x):
        x = x.args[0]  # type: ignore[assignment]
    own = context.type_of(x)
    if own == ir.DataType.FLOAT and context.dtype in (ir.DataType.INT64, ir.DataType.INT32):
        return context.op("Cast", _towards_zero_float(context, x), to=context.dtype.value)
    return context.value(x, context.dtype)


def _towards_zero_float(context: Context, x: Node) -> ir.Value:
    # ONNX leaves the rounding of a float-to-integer cast to the engine for negative numbers.
    value, shape = context.value(x), context.shape_of(x)
    kwargs: dict[str, Any] = {"dtype": ir.DataType.FLOAT, "shape": shape}
    whole = context.op("Floor", context.op("Abs", value, **kwargs), **kwargs)
    return context.op("Mul", context.op("Sign", value, **kwargs), whole, **kwargs)
