"""Products that ONNX has no single operation for, and solves with a constant matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["RULES"]

aten = torch.ops.aten


def _trilinear(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> torch.Tensor:
    """Product of three tensors, each with ones inserted at its `expand` dimensions, summed over `sumdim`."""
    for dim in expand_a:
        a = a.unsqueeze(dim)
    for dim in expand_b:
        b = b.unsqueeze(dim)
    for dim in expand_c:
        c = c.unsqueeze(dim)
    product = a * b * c
    return product.sum(list(sumdim)) if sumdim else product


def _solve_triangular(
    matrix: torch.Tensor, right: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """Multiplies by the inverse, which is folded where the matrix is a parameter (a covariance factor, say)."""
    if unitriangular:
        return NotImplemented
    kept = matrix.triu() if upper else matrix.tril()
    inverse = aten.linalg_inv_ex.default(kept)[0]
    return torch.matmul(inverse, right) if left else torch.matmul(right, inverse)


def _solve(
    matrix: torch.Tensor, right: torch.Tensor, *, left: bool = True, check_errors: bool = False
) -> tuple[Any, ...]:
    """Multiplies by the inverse, as `_solve_triangular`; the factors are what the gradient solves with.

    Returns:
        (solution, LU, pivots, info); PyTorch's kernels for the CPU, which the models are traced on, factor the matrix
        itself and not its transpose.
    """
    factors, pivots, info = aten.linalg_lu_factor_ex.default(matrix)
    return _product(aten.linalg_inv_ex.default(matrix)[0], right, matrix, left), factors, pivots, info


def _lu_solve(
    factors: torch.Tensor, pivots: torch.Tensor, right: torch.Tensor, *, left: bool = True, adjoint: bool = False
) -> torch.Tensor:
    """Solves with the matrix that LU and pivots [.., n] are the factors of, or with its transpose."""
    order, lower, upper = aten.lu_unpack.default(factors, pivots)
    inverse = aten.linalg_inv_ex.default(order @ lower @ upper)[0]
    return _product(inverse.mT if adjoint else inverse, right, factors, left)


def _cholesky_solve(right: torch.Tensor, factor: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """Solves with L L^T, or U^T U."""
    factor = factor.triu().mT if upper else factor.tril()
    inverse = aten.linalg_inv_ex.default(factor)[0]
    return inverse.mT @ (inverse @ right)


def _product(inverse: torch.Tensor, right: torch.Tensor, matrix: torch.Tensor, left: bool) -> torch.Tensor:
    """The inverse times matrices [.., n, k], or times vectors [.., n] where `right` has one dimension fewer."""
    if right.dim() == 1 or (right.dim() == matrix.dim() - 1 and right.shape == matrix.shape[:-1]):
        return (inverse @ right.unsqueeze(-1)).squeeze(-1)
    return inverse @ right if left else right @ inverse


def _sparse_addmm(
    added: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """What torch.sparse.mm calls, of a matrix that was sparse and is dense here."""
    return aten.addmm.default(added, a, b, beta=beta, alpha=alpha)  # type: ignore[no-any-return]


def _diagonal_scatter(
    x: torch.Tensor, source: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """X with its (dim1, dim2) diagonal replaced by `source` [.., n]."""
    moved = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = moved.shape[-2:]
    start = max(-offset, 0)
    # Not a `constant`: along the batch it is another one at each batch size.
    mask = torch.arange(columns)[None] - torch.arange(rows)[:, None] == offset
    by_row = F.pad(source, (start, rows - start - source.shape[-1])).unsqueeze(-1)
    return torch.where(mask, by_row, moved).movedim((-2, -1), (dim1, dim2))


RULES = {
    aten._sparse_addmm.default: _sparse_addmm,
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten._trilinear.default: _trilinear,
    aten.linalg_solve_triangular.default: _solve_triangular,
    aten._linalg_solve_ex.default: _solve,
    aten.linalg_lu_solve.default: _lu_solve,
    aten.cholesky_solve.default: _cholesky_solve,
}
