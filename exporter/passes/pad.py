"""Gives a convolution the zeros that a Pad before it writes."""

from __future__ import annotations

import onnx_ir as ir

from .graph import content, replace, sole_user

__all__ = ["FusePadIntoConv"]


class FusePadIntoConv(ir.passes.InPlacePass):
    """Fuses `Conv(Pad(x))` into Conv with larger pads.

    1. The Pad writes zeros, before and after spatial axes only, and the Conv alone reads it.
    2. Anything else stays: other fills, padded channels, reflected borders, negative pads.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Pad":
                modified |= self._fuse(node)
        return ir.passes.PassResult(model, modified)

    def _fuse(self, node: ir.Node) -> bool:
        user = sole_user(node.outputs[0])
        if user is None or user.op_type != "Conv" or user.inputs[0] is not node.outputs[0]:
            return False
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
        pads = content(node.inputs[1])
        fill = content(node.inputs[2]) if len(node.inputs) > 2 else None
        if mode != "constant" or pads is None or (fill is not None and fill != 0) or len(node.inputs) > 3:
            return False
        rank = len(pads) // 2
        before, after = pads[:rank], pads[rank:]
        if before[:2].any() or after[:2].any() or (pads < 0).any():
            return False
        own = user.attributes["pads"].as_ints()
        spatial = rank - 2
        total = [int(own[i] + before[2 + i]) for i in range(spatial)]
        total += [int(own[spatial + i] + after[2 + i]) for i in range(spatial)]
        user.attributes["pads"] = ir.AttrInt64s("pads", total)
        source = node.inputs[0]
        assert source is not None
        replace(node, source)
        return True
