"""Upsampling as constant matrices along each axis, and the transposed matrices as its gradient.

Every separable resampling is linear, so its matrix along an axis is what PyTorch's own operation makes of the identity.
Two small matrix products are exact for every mode, scale and corner rule, fuse in every engine, and their gradient is the
same with the matrix transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .constant import constant
from .linear_map import along

__all__ = ["RULES"]

aten = torch.ops.aten

Scale = float | None


def _resample(x: torch.Tensor, size: Sequence[int], matrix: Callable[[int, int, int], torch.Tensor]) -> torch.Tensor:
    """Applies matrix(axis, n, out) [out, n] along each spatial axis whose map is not the identity."""
    for axis, (n, out) in enumerate(zip(x.shape[2:], size, strict=True)):
        weights = constant(lambda axis=axis, n=n, out=out: matrix(axis, n, out).float())  # type: ignore[misc]
        if not constant(lambda weights=weights, n=n: torch.equal(weights, torch.eye(n))):  # type: ignore[misc, arg-type, return-value]
            x = along(x, 2 + axis, weights)
    return x


def _adjoint(grad: torch.Tensor, size: Sequence[int], matrix: Callable[[int, int, int], torch.Tensor]) -> torch.Tensor:
    """The gradient of `_resample` at an input of spatial size `size`."""
    for axis, (n, out) in enumerate(zip(size, grad.shape[2:], strict=True)):
        weights = constant(lambda axis=axis, n=n, out=out: matrix(axis, n, out).float())  # type: ignore[misc]
        if not constant(lambda weights=weights, n=n: torch.equal(weights, torch.eye(n))):  # type: ignore[misc, arg-type, return-value]
            grad = along(grad, 2 + axis, weights.t())
    return grad


def _linear(align_corners: bool, scales: Sequence[Scale]) -> Callable[[int, int, int], torch.Tensor]:
    def matrix(axis: int, n: int, out: int) -> torch.Tensor:
        eye = torch.eye(n, dtype=torch.float64)[None]
        return aten.upsample_linear1d.default(eye, [out], align_corners, scales[axis])[0].t()  # type: ignore[no-any-return]

    return matrix


def _planar(operation: Any, align_corners: bool, scales: Sequence[Scale]) -> Callable[[int, int, int], torch.Tensor]:
    """Matrix of a 2-d operation along one axis: the rows of the identity become images of height 1.

    Not of width 1: there PyTorch 2.13 gives every row of the antialiased operations the weights of the first.
    """

    def matrix(axis: int, n: int, out: int) -> torch.Tensor:
        eye = torch.eye(n, dtype=torch.float64)[None, :, None, :]
        return operation(eye, [1, out], align_corners, None, scales[axis])[0, :, 0, :].t()  # type: ignore[no-any-return]

    return matrix


def _nearest(operation: Any, scales: Sequence[Scale]) -> Callable[[int, int, int], torch.Tensor]:
    """Of an operation's own rank: for a size that stays, or doubles, PyTorch's 2-d one takes other places than the others."""

    def matrix(axis: int, n: int, out: int) -> torch.Tensor:
        eye = torch.eye(n, dtype=torch.float64).reshape(1, n, *_on_axis(axis, n, scales, 1))
        return operation(eye, _on_axis(axis, out, scales, 1), *_on_axis(axis, scales[axis], scales)).reshape(n, out).t()  # type: ignore[no-any-return]

    return matrix


def _nearest_of_gradient(operation: Any, scales: Sequence[Scale]) -> Callable[[int, int, int], torch.Tensor]:
    """The same for an operation's own gradient, which in one and three dimensions takes other places than its forward there."""

    def matrix(axis: int, n: int, out: int) -> torch.Tensor:
        eye = torch.eye(out, dtype=torch.float64).reshape(1, out, *_on_axis(axis, out, scales, 1))
        size, input_size = _on_axis(axis, out, scales, 1), [1, out, *_on_axis(axis, n, scales, 1)]
        return operation(eye, size, input_size, *_on_axis(axis, scales[axis], scales)).reshape(out, n)  # type: ignore[no-any-return]

    return matrix


def _on_axis(axis: int, value: Any, axes: Sequence[Any], others: Any = None) -> list[Any]:
    """One entry for each axis, `value` for this one."""
    return [value if index == axis else others for index in range(len(axes))]


def _with_corners(build: Callable[[bool, Sequence[Scale]], Callable[[int, int, int], torch.Tensor]]) -> tuple[Any, Any]:
    """Forward and gradient rule of an operation with align_corners and one scale for each axis."""

    def forward(x: torch.Tensor, size: Sequence[int], align_corners: bool, *scales: Scale) -> torch.Tensor:
        return _resample(x, size, build(align_corners, scales or [None] * len(size)))

    def backward(
        grad: torch.Tensor, size: Sequence[int], input_size: Sequence[int], align_corners: bool, *scales: Scale
    ) -> torch.Tensor:
        return _adjoint(grad, input_size[2:], build(align_corners, scales or [None] * len(size)))

    return forward, backward


def _nearest_rules(operation: Any, gradient: Any) -> tuple[Any, Any]:
    def forward(x: torch.Tensor, size: Sequence[int], *scales: Scale) -> Any:
        whole = all(out % n == 0 for n, out in zip(x.shape[2:], size, strict=True))
        # For a whole factor every rounding rule repeats each element, whatever scale was given with the size.
        given = any(s is not None and s * n != out for s, n, out in zip(scales, x.shape[2:], size, strict=False))
        if whole and len(size) == 2 and not given:
            is_plain = operation is aten.upsample_nearest2d.default
            return NotImplemented if is_plain else aten.upsample_nearest2d.default(x, size)
        return _resample(x, size, _nearest(operation, scales or [None] * len(size)))

    def backward(grad: torch.Tensor, size: Sequence[int], input_size: Sequence[int], *scales: Scale) -> torch.Tensor:
        n = input_size[2:]
        if all(o % m == 0 for m, o in zip(n, size, strict=True)) and not any(scales):
            wide = list(grad.shape[:2])
            for m, o in zip(n, size, strict=True):
                wide += [m, o // m]
            return grad.reshape(wide).sum([3 + 2 * axis for axis in range(len(n))])
        return _adjoint(grad, n, _nearest_of_gradient(gradient, scales or [None] * len(size)))

    return forward, backward


RULES: dict[Any, Any] = {}


def _register(name: str, rules: tuple[Any, Any]) -> None:
    forward, backward = rules
    RULES[getattr(aten, name).default] = forward
    RULES[getattr(aten, f"{name}_backward").default] = backward


for _name in ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"):
    _register(_name, _with_corners(_linear))
for _name in ("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
    _operation = getattr(aten, _name).default
    _register(_name, _with_corners(lambda corners, scales, op=_operation: _planar(op, corners, scales)))  # type: ignore[misc]
for _rank in (1, 2, 3):
    for _name in (f"upsample_nearest{_rank}d", f"_upsample_nearest_exact{_rank}d"):
        _register(_name, _nearest_rules(getattr(aten, _name).default, getattr(aten, f"{_name}_backward").default))
