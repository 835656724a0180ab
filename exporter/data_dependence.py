"""Catches a model that turns a tensor computed from its inputs into a Python number or into the size of another tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..runtime.errors import ContractError
from .provenance import Provenance
from .random_draws import draw, draws
from .rules.masks import is_choice
from .sparse import refuse_sparse

__all__ = ["DataDependence"]

aten = torch.ops.aten

_READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
"""Operations that give Python a value instead of a tensor."""

_SIZED_BY = {
    aten._unique.default: 0,
    aten._unique2.default: 0,
    aten.argwhere.default: 0,
    aten.bincount.default: 0,
    aten.masked_select.default: 1,
    aten.nonzero.default: 0,
    aten.repeat_interleave.Tensor: 0,
    aten.unique_consecutive.default: 0,
    aten.unique_dim.default: 0,
    aten.unique_dim_consecutive.default: 0,
}
"""Place of the argument whose values decide how large the result is. PyTorch's tag has more operations, of which some have sizes
by their arguments' sizes alone (ctc_loss, lstsq); that these have no rule is for the lowering to say."""


class DataDependence(TorchDispatchMode):
    """Follows what depends on the inputs, and refuses to let Python read any of it or a size depend on it.

    A value that depends on parameters alone may be read: a mask that is looked at once, a size kept in a buffer. It is
    the same at every call, so the branch it decides is too.

    Args:
        inputs: the tensors that change from call to call.
        provenance: says where in the model an operation stands.

    Attributes:
        drawn: whether random numbers were drawn that no input decides; they became constants.
    """

    def __init__(self, inputs: Iterable[torch.Tensor], provenance: Provenance):
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn = False
        self._provenance = provenance
        # Storages, so that views and writes through views are followed. Held, so that no address is used twice.
        self._held: dict[int, Any] = {}
        self._mark(inputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        for tensor in given:
            refuse_sparse(tensor, self._provenance)
        depends = any(self._is_marked(tensor) for tensor in given)
        if depends and func is aten._pack_padded_sequence.default:
            raise ContractError(
                f"the model packs sequences by their lengths{self._provenance.describe_last()}: a graph has the same shapes at every "
                "call; leave pack_padded_sequence out. A recurrent layer over the padded x gives the same outputs up to each "
                "sequence's end: its last one is out[torch.arange(out.shape[0]), lengths - 1] (batch_first), and a mask keeps the rest out of means. "
                "(In the reverse direction flip each sequence by its length first, with torch.gather)"
            )
        if depends and func in _READS:
            raise ContractError(
                f"the model decides by the value of a tensor{self._provenance.describe_last()}: a graph cannot branch "
                "on data; use torch.where, or turn argument checks off for the export"
            )
        if depends and self._sizes_depend(func, args):
            raise ContractError(
                f"the shape of what {func} gives depends on the data{self._provenance.describe_last()}: a graph has the "
                "same shapes at every call; compute every choice for all samples and pick with torch.where(mask, a, b), or "
                "with a product by the mask or by F.one_hot(index, count)"
            )
        if depends and self._places_depend(func, args):
            raise ContractError(
                f"the model writes a value of its own at each place of a mask that depends on the data{self._provenance.describe_last()}: "
                "a graph cannot tell how many there are; compute a value for every place and pick with torch.where(mask, values, x), "
                "or write the same at all of them, x[mask] = token"
            )
        if draws(func) and not depends:
            self.drawn = True
            return draw(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        if depends:
            written = [args[0]] if args and func._schema.is_mutable else []
            self._mark(leaf for leaf in tree_leaves((result, written)) if isinstance(leaf, torch.Tensor))
        return result

    def _sizes_depend(self, func: Any, args: Any) -> bool:
        """Whether the values of a marked tensor decide how large the result is: a mask as index, nonzero, unique."""
        if func is aten.index.Tensor:
            return any(self._is_marked(index) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        place = _SIZED_BY.get(func)
        return place is not None and self._is_marked(args[place])

    def _places_depend(self, func: Any, args: Any) -> bool:
        """Whether a marked mask says how many rows of the values are written, and where."""
        if func not in (aten.index_put.default, aten.index_put_.default):
            return False
        masks = [i for i in args[1] if self._is_marked(i) and i.dtype in (torch.bool, torch.uint8)]
        return bool(masks) and not is_choice(*args[:3])

    def _mark(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            refuse_sparse(tensor, self._provenance)
            storage = tensor.untyped_storage()
            self._held[storage._cdata] = storage

    def _is_marked(self, leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata in self._held
