"""Small passes over the ONNX graph, each with its rules in its docstring."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from .affine import FoldAffineIntoConv
from .expand import DropExpand
from .heads import KeepHeads
from .log_sigmoid import LogSigmoid
from .matrices import ShareMatrix
from .pad import FusePadIntoConv
from .part import PartProducts, SliceProducts
from .reshape import MergeReshapes

__all__ = [
    "DropExpand",
    "FoldAffineIntoConv",
    "FusePadIntoConv",
    "KeepHeads",
    "LogSigmoid",
    "MergeReshapes",
    "PartProducts",
    "ShareMatrix",
    "SliceProducts",
    "optimize",
]


def optimize(model: ir.Model) -> None:
    """Rewrites a lowered score graph in place until no pass changes it.

    A score graph has no subgraphs and no functions, so no pass here looks for any.
    """
    passes = ir.passes.PassManager(
        [
            MergeReshapes(),
            DropExpand(),
            KeepHeads(),
            CommonSubexpressionEliminationPass(),
            LogSigmoid(),
            FoldAffineIntoConv(),
            FusePadIntoConv(),
            ShareMatrix(),
            PartProducts(),
            SliceProducts(),
            RemoveUnusedNodesPass(),
        ],
        steps=10,
        early_stop=True,
    )
    passes(model)
