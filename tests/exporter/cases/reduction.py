"""Reductions, running sums, extremes, orders, norms and distances."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from . import Case
from .op_energy import op_case, rounded

__all__ = ["CASES"]

S = (4, 5)
IMAGE = (3, 4, 5)
POINTS = (5, 3)


def off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """Entries [B, N * (N - 1)] off the diagonal of [B, N, N]."""
    count = matrix.shape[-1]
    return matrix[:, ~torch.eye(count, dtype=torch.bool)]


def pair_distances(x: torch.Tensor) -> torch.Tensor:
    """Distances between particles, the pair with itself left out before the root."""
    rows, columns = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return (x[:, rows] - x[:, columns]).square().sum(-1).sqrt()


def lennard_jones(x: torch.Tensor) -> torch.Tensor:
    inverse6 = (x.unsqueeze(1) - x.unsqueeze(2)).square().sum(-1) + 0.5
    inverse6 = (1 / (inverse6 + torch.eye(x.shape[1], dtype=x.dtype) * 1e6)) ** 3
    return (inverse6**2 - inverse6).sum(-1)


def determinant2(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0, 0] * x[:, 1, 1] - x[:, 0, 1] * x[:, 1, 0]


def determinant3(x: torch.Tensor) -> torch.Tensor:
    a, b, c = x.unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(-1, keepdim=True)


def soft_argmax(x: torch.Tensor) -> torch.Tensor:
    """Expected place under a softmax over the plane."""
    weights = (3 * x).flatten(2).softmax(-1).view_as(x)
    rows = torch.arange(x.shape[2], dtype=x.dtype)
    columns = torch.arange(x.shape[3], dtype=x.dtype)
    return torch.stack([weights.sum(3) @ rows, weights.sum(2) @ columns], dim=-1)


def total_variation(x: torch.Tensor) -> torch.Tensor:
    return (x[..., 1:] - x[..., :-1]).abs().sum((2, 3)) + (x[:, :, 1:] - x[:, :, :-1]).square().sum((2, 3))


def nearest_centre(x: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, centres).min(dim=-1).values


def k_nearest(x: torch.Tensor) -> torch.Tensor:
    distance = torch.cdist(x, x) + 1e3 * torch.eye(x.shape[1], dtype=x.dtype)
    return distance.topk(2, dim=-1, largest=False).values


def mmd(x: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return torch.exp(-torch.cdist(x, centres).square() / 2).mean(-1)


CASES: dict[str, Case] = {
    # sums and means
    "sum": op_case(lambda x: x.sin().sum(1), S),
    "sum_all_dims": op_case(lambda x: x.square().sum((1, 2)).unsqueeze(1), S),
    "sum_keepdim": op_case(lambda x: x - x.sum((1, 3), keepdim=True) / 10, IMAGE),
    "mean": op_case(lambda x: x.exp().mean(-1), S),
    "mean_dims": op_case(lambda x: (x - x.mean((2, 3), keepdim=True)).mean(1), IMAGE),
    "nansum_nanmean": op_case(lambda x: x.nansum(1) * x.nanmean(1), S),
    "prod": op_case(lambda x: x.prod(-1), S),
    "prod_keepdim": op_case(lambda x: (1 + 0.3 * x).prod(1, keepdim=True) - x, S),
    "prod_with_zero": op_case(lambda x: rounded(x)[..., :3].prod(-1) + x[..., 3], S),
    "weighted_sum_softmax": op_case(lambda x: (x.softmax(-1) * x.sin()).sum(-1), S),
    "trace": op_case(lambda x: torch.vmap(torch.trace)(x.exp()).unsqueeze(1), (4, 4)),
    "count_nonzero": op_case(lambda x: x.square().sum(-1) / (x > 0).sum(-1).clamp(min=1), S),
    "any_all": op_case(lambda x: x * (x > 1).any(-1, keepdim=True) + x.sin() * (x > -2).all(-1, keepdim=True), S),
    "total_variation": op_case(total_variation, IMAGE),
    "soft_argmax": op_case(soft_argmax, IMAGE),
    "diff": op_case(lambda x: torch.diff(x, dim=-1), S),
    "diff_twice": op_case(lambda x: torch.diff(x, n=2, dim=1), S),
    "trapezoid": op_case(lambda x: torch.trapezoid(x.sin(), dx=0.3, dim=-1), S),
    # running
    "cumsum": op_case(lambda x: x.cumsum(-1), S),
    "cumsum_middle": op_case(lambda x: x.cumsum(1).sin(), IMAGE),
    "cumsum_reversed": op_case(lambda x: x.flip(-1).cumsum(-1).flip(-1), S),
    "cumprod": op_case(lambda x: x.cumprod(-1), S),
    "cumprod_with_zero": op_case(lambda x: rounded(x).cumprod(-1) + x.sin(), S),
    "logcumsumexp": op_case(lambda x: x.logcumsumexp(-1), S),
    "cummax": op_case(lambda x: x.cummax(-1).values, S, spread=True),
    "cummax_ties": op_case(lambda x: rounded(x).cummax(-1).values, S),
    "cummin": op_case(lambda x: x.cummin(1).values, S, spread=True),
    "autoregressive_product": op_case(lambda x: torch.cumprod(torch.sigmoid(x), 1) * x, S),
    # extremes
    "max_dim": op_case(lambda x: x.max(-1).values, S, spread=True),
    "max_dim_keepdim": op_case(lambda x: x - x.max(1, keepdim=True)[0], S, spread=True),
    "max_all_by_flatten": op_case(
        lambda x: x.flatten(1).max(1, keepdim=True).values * x.flatten(1).cos(), S, spread=True
    ),
    "min_dim": op_case(lambda x: x.min(1).values, S, spread=True),
    "amax": op_case(lambda x: x.amax((2, 3)), IMAGE, spread=True),
    "amin_keepdim": op_case(lambda x: x - x.amin(2, keepdim=True), S, spread=True),
    "amax_ties": op_case(lambda x: rounded(x).amax(-1) + rounded(x).amin((1, 2)).unsqueeze(1), S),
    "max_ties": op_case(lambda x: rounded(x).max(-1).values, S),
    "aminmax": op_case(lambda x: x.aminmax(dim=-1).max - x.aminmax(dim=-1).min, S, spread=True),
    "maximum": op_case(lambda x: torch.maximum(x, x.flip(1) * 2), S),
    "maximum_constant": op_case(lambda x, w: torch.maximum(x, w) + torch.minimum(x.sin(), w), S, (5,)),
    "minimum": op_case(lambda x: torch.minimum(x, x.roll(1, 1).sin()), S),
    "maximum_equal": op_case(lambda x: torch.maximum(x, 2 * x.detach() - x) + x.sin(), S),
    "fmax_fmin": op_case(lambda x: torch.fmax(x, x.cos()) + torch.fmin(x, 0.3 * x), S),
    "median": op_case(lambda x: x.median(-1).values, S, spread=True),
    "quantile": op_case(lambda x: x.quantile(0.3, dim=-1), S, spread=True),
    "kthvalue": op_case(lambda x: x.kthvalue(2, dim=-1).values, S, spread=True),
    "smooth_maximum": op_case(lambda x: torch.logsumexp(4 * x, -1) / 4, S),
    # orders
    "sort": op_case(lambda x: x.sort(-1).values, S, spread=True),
    "sort_descending_middle": op_case(lambda x: x.sort(1, descending=True).values, IMAGE, spread=True),
    "sort_stable_cumsum": op_case(lambda x: x.sort(dim=-1, stable=True).values.cumsum(-1), S, spread=True),
    "argsort_gather": op_case(lambda x: x.sin().gather(-1, x.argsort(-1)), S, spread=True),
    "sort_of_truths": op_case(lambda x: (x > 0).sort(1).values * x.sin() + x, S),
    "argsort_of_truths": op_case(
        lambda x: x.sin().gather(1, (x > 0).sort(dim=1, stable=True).indices) * (x > 0).sort(1, True).values, (6,)
    ),
    "extrema_of_truths": op_case(
        lambda x: (x > 0).amax(1, keepdim=True) * x.sin() + (x > -1).amin(1, keepdim=True) * x, S
    ),
    "topk": op_case(lambda x: x.topk(3, -1).values, S, spread=True),
    "topk_smallest": op_case(lambda x: x.topk(2, 1, largest=False).values, S, spread=True),
    "topk_index": op_case(lambda x: x.cos().gather(-1, x.topk(2, -1).indices), S, spread=True),
    "argmax_index": op_case(lambda x: x.sin().gather(1, x.argmax(1, keepdim=True)), S, spread=True),
    "argmin_one_hot": op_case(lambda x: F.one_hot(x.argmin(-1), 5).to(x.dtype) * x.square(), S, spread=True),
    "hard_attention": op_case(
        lambda x: (x == x.amax(-1, keepdim=True)).to(x.dtype) * x.sin() + 0.1 * x, S, spread=True
    ),
    "sliced_wasserstein": op_case(
        lambda x, w, t: ((x @ w).sort(1).values - (t @ w).sort(0).values).square(), POINTS, (3, 4), (5, 3)
    ),
    # spread
    "var": op_case(lambda x: x.var(-1), S),
    "var_biased": op_case(lambda x: x.var((2, 3), unbiased=False), IMAGE),
    "var_correction_keepdim": op_case(lambda x: x / x.var(1, correction=2, keepdim=True), S),
    "std": op_case(lambda x: x.std(1), S),
    "std_biased": op_case(lambda x: x.std(-1, unbiased=False, keepdim=True) * x, S),
    "var_mean": op_case(lambda x: torch.cat(torch.var_mean(x, -1), dim=1), S),
    "std_mean": op_case(lambda x: torch.cat(torch.std_mean(x, 1), dim=1), S),
    "covariance": op_case(lambda x: torch.vmap(torch.cov)(x), S),
    # norms
    "norm": op_case(lambda x: x.norm(dim=-1), S),
    "norm_p1": op_case(lambda x: x.norm(p=1, dim=1), S),
    "norm_p3": op_case(lambda x: x.norm(p=3, dim=-1), S),
    "norm_infinity": op_case(lambda x: x.norm(p=float("inf"), dim=-1), S, spread=True),
    "norm_half": op_case(lambda x: x.norm(p=0.5, dim=-1) / 5, S, positive=True),
    "norm_frobenius": op_case(lambda x: torch.linalg.matrix_norm(x), IMAGE),
    "norm_flat": op_case(lambda x: x.flatten(1).norm(dim=1, keepdim=True), S),
    "vector_norm": op_case(lambda x: torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) - x, S),
    "vector_norm_p4": op_case(lambda x: torch.linalg.vector_norm(x, ord=4, dim=-1), S),
    "vector_norm_minus_infinity": op_case(lambda x: torch.linalg.vector_norm(x, ord=-math.inf, dim=-1), S, spread=True),
    "linalg_norm": op_case(lambda x: torch.linalg.norm(x, dim=-1), S),
    "linalg_norm_matrix_one": op_case(lambda x: torch.linalg.norm(x, ord=1, dim=(2, 3)), IMAGE, spread=True),
    "norm_at_zero": op_case(lambda x: (F.relu(x) * (x > 9)).norm(dim=-1) + x.norm(dim=-1), S),
    # distances
    "cdist_centres": op_case(torch.cdist, POINTS, (4, 3)),
    "cdist_centres_p1": op_case(lambda x, c: torch.cdist(x, c, p=1), POINTS, (4, 3)),
    "cdist_centres_infinity": op_case(lambda x, c: torch.cdist(x, c, p=float("inf")), POINTS, (4, 3)),
    "cdist_centres_p3": op_case(lambda x, c: torch.cdist(x, c, p=3.0), POINTS, (4, 3)),
    "cdist_exact": op_case(lambda x, c: torch.cdist(x, c, compute_mode="donot_use_mm_for_euclid_dist"), POINTS, (4, 3)),
    "cdist_of_vector": op_case(lambda x, c: torch.cdist(x.unsqueeze(1), c).squeeze(1), (3,), (4, 3)),
    "cdist_batch_as_rows": op_case(torch.cdist, (3,), (4, 3)),
    "cdist_many_centres": op_case(torch.cdist, (3,), (30, 3)),
    "cdist_pairs": op_case(lambda x: off_diagonal(torch.cdist(x, x)), POINTS),
    "cdist_pairs_p1": op_case(lambda x: off_diagonal(torch.cdist(x, x, p=1)), POINTS),
    "cdist_pairs_with_diagonal": op_case(lambda x: torch.cdist(x, x).square(), POINTS),
    "cdist_nearest": op_case(nearest_centre, POINTS, (4, 3)),
    "k_nearest": op_case(k_nearest, POINTS),
    "rbf_kernel": op_case(mmd, POINTS, (4, 3)),
    "pair_distances": op_case(pair_distances, POINTS),
    "lennard_jones": op_case(lennard_jones, POINTS),
    "pairwise_distance": op_case(lambda x: F.pairwise_distance(x[:, 0], x[:, 1]), (2, 5)),
    "pairwise_distance_p1_keepdim": op_case(lambda x, c: F.pairwise_distance(x, c, p=1, keepdim=True), S, (4, 5)),
    "cosine_similarity": op_case(lambda x, c: F.cosine_similarity(x, c, dim=-1), S, (5,)),
    "cosine_similarity_pairs": op_case(lambda x: F.cosine_similarity(x.unsqueeze(1), x.unsqueeze(2), dim=-1), S),
    "cosine_embedding": op_case(lambda x: 1 - F.cosine_similarity(x[:, 0], x[:, 1]).unsqueeze(1), S),
    # matrices
    "determinant2": op_case(determinant2, (2, 2)),
    "determinant3": op_case(determinant3, (3, 3)),
    "inverse2": op_case(lambda x: x.flip(1, 2) / (determinant2(x).square() + 0.5)[:, None, None], (2, 2)),
    "cross": op_case(lambda x: torch.cross(x[:, 0], x[:, 1], dim=-1), (2, 3)),
    "dihedral": op_case(
        lambda x: torch.atan2(torch.linalg.cross(x[:, 0], x[:, 1]).norm(dim=-1), (x[:, 0] * x[:, 1]).sum(-1)).unsqueeze(
            1
        ),
        (2, 3),
    ),
    "softmax_entropy": op_case(lambda x: -(x.softmax(-1) * x.log_softmax(-1)).sum(-1), S),
    "logsumexp_two_dims": op_case(lambda x: x.logsumexp((1, 2)).unsqueeze(1), S),
}
