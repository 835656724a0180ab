"""Keeps a constant for each place apart from the convolution behind it, for a backend that takes it for one of its taps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .graph import content, dims, insert, replace, stored

__all__ = ["KeepScaledPlaces"]


class KeepScaledPlaces(ir.passes.InPlacePass):
    """Scales what a convolution reads in one dimension more, where OpenVINO would scale the convolution's taps instead.

    1. `Conv(x * c)`, `Conv(x / c)` and `Conv(c / x)`, where c differs from place to place and its sizes along the
       spatial axes are 1 or the kernel's, become the same of x [.., 1] and c [.., 1], then a Reshape to the shape that
       the result had.
    2. So does one where x has another shape than the result, as the one channel has that a c [1, C, 1, 1] makes C of.
    3. Any other c, such as one with a number for each channel, a result of unknown shape or with two symbolic
       dimensions, and a kernel that is no constant stay.

    OpenVINO 2026.4.1 folds a constant factor into the kernel [O, C, *k] whenever it can be broadcast to it, places and
    taps alike: x [B, C, 3, 3] times c [3, 3] before a kernel of 3 x 3 is wrong by as much as the result is large, and
    in rule 2 it ends with an error. The gradient of a pool with unequal windows divides in this way, as does that of a
    mask behind a convolution. A Reshape that changes the number of dimensions keeps the two apart.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Conv" and content(node.inputs[1]) is not None:
                modified |= self._before(model.graph, node)
        return ir.passes.PassResult(model, modified)

    def _before(self, graph: ir.Graph, conv: ir.Node) -> bool:
        source = conv.inputs[0]
        scaling = None if source is None else source.producer()
        if scaling is None or scaling.op_type not in ("Mul", "Div"):
            return False
        kernel, shape = dims(conv.inputs[1]), dims(source)
        if kernel is None or shape is None or not all(isinstance(size, int) for size in shape[1:]):
            return False
        for index in (0, 1):
            scale, own = content(scaling.inputs[index]), dims(scaling.inputs[1 - index])
            if scale is not None and own is not None and (own != shape or _looks_like_taps(scale, kernel[2:])):
                self._wider(graph, scaling, index, scale, own)
                return True
        return False

    def _wider(
        self, graph: ir.Graph, scaling: ir.Node, index: int, scale: np.ndarray, own: tuple[int | str, ...]
    ) -> None:
        like, name = scaling.outputs[0], scaling.name or scaling.op_type
        shape = dims(like)
        assert shape is not None
        wide, narrow = (_target([*own, 1]), _target(shape))
        inputs: list[ir.Value | None] = [None, None]
        x = [scaling.inputs[1 - index], stored(graph, wide, f"{name}.wide")]
        inputs[1 - index] = insert(scaling, "Reshape", x, like=like, name=f"{name}.raised", shape=[*own, 1])
        inputs[index] = stored(graph, scale[..., None], f"{name}.places")
        scaled = insert(scaling, scaling.op_type, inputs, like=like, name=f"{name}.scaled", shape=[*shape, 1])
        back = [scaled, stored(graph, narrow, f"{name}.shape")]
        replace(scaling, insert(scaling, "Reshape", back, like=like, name=f"{name}.reshaped"))


def _target(shape: Sequence[int | str]) -> np.ndarray:
    return np.array([-1 if isinstance(size, str) else size for size in shape], np.int64)


def _looks_like_taps(scale: np.ndarray, kernel: tuple[int | str, ...]) -> bool:
    """Whether a constant differs along a spatial axis and can be broadcast to the taps of a kernel."""
    rank = len(kernel)
    places = (1,) * (rank - scale.ndim) + scale.shape[-rank:] if scale.ndim else (1,) * rank
    if scale.ndim > rank + 2 or (scale.ndim == rank + 2 and scale.shape[0] != 1) or all(n == 1 for n in places):
        return False
    return all(n in (1, k) for n, k in zip(places, kernel, strict=True))
