"""Matrix products: of every rank, broadcast, with x on one side, on both sides, and with a looked-up table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from . import Case, CondSpec
from .op_energy import module_case, op_case, seeded

__all__ = ["CASES"]


class Mlp(nn.Module):
    """Linear layers down to one number, squeezed or not."""

    def __init__(self, squeeze: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.SiLU(), nn.Linear(8, 1))
        self.squeeze = squeeze

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = self.layers(x)
        return energy.squeeze(-1) if self.squeeze else energy


class SkipBilinear(nn.Module):
    """Both sides of a Bilinear layer depend on x."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 3)
        self.bilinear = nn.Bilinear(3, 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.bilinear(torch.sin(self.left(x)), x)).square().sum(-1)


class ConditionedBilinear(nn.Module):
    """x on one side of a Bilinear layer, the condition on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(4, 3, 5, bias=False)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.bilinear(x, context)).square().sum(-1)


class Labelled(nn.Module):
    """A label picks a row of a table, which is a direction in x."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5, padding_idx=padding_idx)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.tanh((x * self.table(label)).sum(-1)) + 0.1 * x.pow(4).sum(-1)


class LabelSequence(nn.Module):
    """A sequence of labels is embedded, and x is compared with each place."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return (x - self.table(tokens)).square().sum(-1).sqrt().sum(-1)


class BagOfLabels(nn.Module):
    """The mean of looked-up rows scales x."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(7, 5, mode="mean")

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * self.bag(tokens)).square().sum(-1)


class MatrixWithCondition(nn.Module):
    """A matrix per sample, given as condition."""

    def forward(self, x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.bmm(matrix, x.unsqueeze(-1)).squeeze(-1)).square().sum(-1)


class Vectors(nn.Module):
    """torch.func.vmap over the batch of a function of one vector: vector-vector and matrix-vector products."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.vector = nn.Parameter(torch.randn(4))

    def one(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.dot(x, torch.mv(self.matrix, x))) + torch.sin(x @ self.vector)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(self.one)(x)


class Quadratic(nn.Module):
    """(x - mean)^T precision (x - mean) / 2, written with einsum."""

    def __init__(self) -> None:
        super().__init__()
        root = torch.randn(5, 5)
        self.mean = nn.Parameter(torch.randn(5))
        self.precision = nn.Parameter(root @ root.T / 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        delta = x - self.mean
        return 0.5 * torch.einsum("bi,ij,bj->b", delta, self.precision, delta)


def dominant(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix [.., n, n] that is far from singular."""
    return matrix + 4 * torch.eye(matrix.shape[-1], dtype=matrix.dtype)


CASES: dict[str, Case] = {
    # solving with a constant matrix
    "solve": op_case(lambda x, m: torch.linalg.solve(dominant(m), x), (4, 3), (4, 4)),
    "solve_transposed": op_case(lambda x, m: torch.linalg.solve(dominant(m).mT, x), (4, 3), (4, 4)),
    "solve_right": op_case(lambda x, m: torch.linalg.solve(dominant(m), x, left=False), (3, 4), (4, 4)),
    "solve_vector": op_case(lambda x, m: torch.linalg.solve(dominant(m), x.mT).mT, (4,), (4, 4)),
    "solve_each": op_case(lambda x, m: torch.linalg.solve(dominant(m), x[..., None]), (3, 4), (3, 4, 4)),
    "solve_mahalanobis": op_case(
        lambda x, m: (x * torch.linalg.solve(dominant(m @ m.mT), x.mT).mT).sum(1), (4,), (4, 4)
    ),
    "inverse": op_case(lambda x, m: x @ torch.linalg.inv(dominant(m)), (4,), (4, 4)),
    "lu_solve": op_case(lambda x, m: torch.linalg.lu_solve(*torch.linalg.lu_factor(dominant(m)), x), (4, 3), (4, 4)),
    "cholesky_solve": op_case(
        lambda x, m: torch.cholesky_solve(x, torch.linalg.cholesky(dominant(m @ m.mT))), (4, 3), (4, 4)
    ),
    "cholesky_solve_upper": op_case(
        lambda x, m: torch.cholesky_solve(x, torch.linalg.cholesky(dominant(m @ m.mT), upper=True), upper=True),
        (4, 3),
        (4, 4),
    ),
    "linear": module_case(lambda: nn.Linear(5, 6), (5,)),
    "linear_no_bias": module_case(lambda: nn.Linear(5, 6, bias=False), (5,)),
    "linear_3d": module_case(lambda: nn.Linear(5, 6), (4, 5)),
    "linear_4d": module_case(lambda: nn.Linear(5, 3), (2, 3, 5)),
    "linear_one_output": module_case(lambda: nn.Linear(5, 1), (5,)),
    "linear_chain": module_case(lambda: nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)), (5,)),
    "linear_after_flatten": module_case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 4)), (2, 3, 4)),
    "unflatten": module_case(lambda: nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Unflatten(1, (3, 4))), (5,)),
    "mlp": Case(seeded(Mlp), (5,)),
    "mlp_column_output": Case(seeded(lambda: Mlp(squeeze=False)), (5,)),
    "mlp_negative": Case(seeded(Mlp), (5,), energy="negative"),
    "mlp_logsumexp": Case(
        seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))),
        (5,),
        energy="logsumexp",
        wrt="input",
    ),
    "bilinear": Case(seeded(SkipBilinear), (4,)),
    "bilinear_condition": Case(seeded(ConditionedBilinear), (4,), {"context": CondSpec((3,))}),
    "bilinear_3d": op_case(lambda x, w, b: F.bilinear(x, torch.sin(x), w, b), (2, 4), (3, 4, 4), (3,)),
    "embedding": Case(seeded(Labelled), (5,), {"label": CondSpec((), "int64", 0, 7)}),
    "embedding_padding_idx": Case(seeded(lambda: Labelled(2)), (5,), {"label": CondSpec((), "int64", 0, 7)}),
    "embedding_sequence": Case(seeded(LabelSequence), (4, 5), {"tokens": CondSpec((4,), "int64", 0, 7)}),
    "embedding_bag": Case(seeded(BagOfLabels), (5,), {"tokens": CondSpec((3,), "int64", 0, 7)}),
    "matmul_matrix_right": op_case(lambda x, w: x @ w, (4,), (4, 5)),
    "matmul_matrix_left": op_case(lambda x, w: w @ x, (4, 3), (5, 4)),
    "matmul_vector_right": op_case(lambda x, w: x @ w, (3, 4), (4,)),
    "matmul_vector_right_2d": op_case(lambda x, w: (x @ w).unsqueeze(1), (4,), (4,)),
    "matmul_vector_left": op_case(lambda x, w: w @ x, (4, 3), (4,)),
    "matmul_batched_both": op_case(lambda x: x[:, 0] @ x[:, 1], (2, 3, 3)),
    "matmul_batched_constant": op_case(lambda x, w: x @ w, (2, 3, 4), (2, 4, 5)),
    "matmul_broadcast_constant_left": op_case(lambda x, w: w @ x, (1, 4, 3), (2, 5, 4)),
    "matmul_broadcast_more_dims": op_case(lambda x, w: x[:, None, None] @ w, (3, 4), (2, 3, 4, 5)),
    "matmul_4d_both": op_case(lambda x: x @ x.transpose(-1, -2), (2, 3, 4)),
    "matmul_broadcast_both": op_case(lambda x: x.unsqueeze(2) @ torch.tanh(x).unsqueeze(1), (2, 3, 3)),
    "gram": op_case(lambda x: x @ x.mT, (4, 3)),
    "gram_features": op_case(lambda x: torch.einsum("bchw,bdhw->bcd", x, x) / 20, (3, 4, 5)),
    "bmm": op_case(lambda x: torch.bmm(x, torch.sin(x).transpose(1, 2)), (3, 4)),
    "baddbmm": op_case(lambda x, w: torch.baddbmm(w, x, x.transpose(1, 2), beta=0.5, alpha=0.3), (3, 4), (1, 3, 3)),
    "addmm": op_case(lambda x, b, w: torch.addmm(b, x, w, beta=0.5, alpha=2.0), (4,), (5,), (4, 5)),
    "addmm_input_is_x": op_case(lambda x, w: torch.addmm(x, torch.tanh(x), w, beta=-1.0), (4,), (4, 4)),
    "einsum_mv": op_case(lambda x, w: torch.einsum("bi,ij->bj", x, w), (4,), (4, 5)),
    "einsum_bilinear": op_case(lambda x, w: torch.einsum("bi,oij,bj->bo", x, w, torch.tanh(x)), (4,), (3, 4, 4)),
    "einsum_attention": op_case(lambda x: torch.einsum("bnhd,bmhd->bhnm", x, x.flip(1)), (3, 2, 4)),
    "einsum_trace": op_case(lambda x: torch.einsum("bii->b", x.exp()).unsqueeze(1), (4, 4)),
    "einsum_diagonal": op_case(lambda x: torch.einsum("bii->bi", x), (4, 4)),
    "einsum_sum_and_permute": op_case(lambda x: torch.einsum("bijk->kb", x.square()).T, (2, 3, 4)),
    "einsum_ellipsis": op_case(lambda x, w: torch.einsum("...i,ji->...j", x, w), (2, 3, 4), (5, 4)),
    "outer": op_case(lambda x: torch.einsum("bi,bj->bij", x, x), (4,)),
    "outer_broadcast": op_case(lambda x: x.unsqueeze(2) * torch.sin(x).unsqueeze(1), (4,)),
    "outer_of_flattened": op_case(lambda x, w: torch.outer(x.flatten(), w).reshape(x.shape[0], -1), (4,), (3,)),
    "tensordot": op_case(lambda x, w: torch.tensordot(x, w, dims=2), (3, 4), (3, 4, 2)),
    "tensordot_dims": op_case(lambda x, w: torch.tensordot(x, w, dims=([3, 1], [0, 1])), (2, 3, 4), (4, 2, 5)),
    "inner": op_case(lambda x, w: torch.inner(x, w), (3, 4), (5, 4)),
    "linalg_vecdot": op_case(lambda x: torch.linalg.vecdot(x, torch.sin(x).roll(1, 1)), (3, 4)),
    "matrix_power": op_case(lambda x: torch.linalg.matrix_power(0.5 * x, 3), (3, 3)),
    "chain_matmul": op_case(lambda x, a, b: torch.linalg.multi_dot([x, a, b]), (4,), (4, 6), (6, 3)),
    "vmap": Case(seeded(Vectors), (4,)),
    "quadratic": Case(seeded(Quadratic), (5,)),
    "matrix_condition": Case(seeded(MatrixWithCondition), (4,), {"matrix": CondSpec((3, 4))}),
    "functional_linear_of_input": op_case(lambda x, w: F.linear(x, w.tanh() * 2, None), (4,), (3, 4)),
}
