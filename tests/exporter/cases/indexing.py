"""Picking, placing, joining, cutting and turning: what moves numbers without changing them, in place too."""

from __future__ import annotations

import torch
from torch import nn

from . import Case, CondSpec
from .op_energy import op_case, seeded

__all__ = ["CASES"]

S = (4, 5)
IMAGE = (3, 4, 5)
LABEL = {"label": CondSpec((), "int64", 0, 4)}
PLACES = {"places": CondSpec((6,), "int64", 0, 4)}
MASK = {"mask": CondSpec((4, 5), "bool")}


class WithCondition(nn.Module):
    """E = sum_i tanh(h_i)^2 / (1 + i / n) of h = op(x, condition); the condition keeps its own parameter name."""

    def readout(self, h: torch.Tensor) -> torch.Tensor:
        h = h.flatten(1)
        weights = 1 / (1 + torch.arange(h.shape[1], dtype=h.dtype) / h.shape[1])
        return torch.tanh(h).square() @ weights


class OnLabel(WithCondition):
    def __init__(self, op: object) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.readout(self.op(x, label))


class OnPlaces(WithCondition):
    def __init__(self, op: object) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self.readout(self.op(x, places))


class OnMask(WithCondition):
    def __init__(self, op: object) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.readout(self.op(x, mask))


class OneHot(nn.Module):
    """A label as one-hot vector, compared with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        chosen = nn.functional.one_hot(label, 4).to(x.dtype)
        return -(torch.log_softmax(self.net(x.sin()), -1) * chosen).sum(-1)


class MessagePassing(nn.Module):
    """Messages along fixed edges of a graph, gathered by index_select and summed by index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.message = nn.Linear(10, 5)
        self.register_buffer("source", torch.tensor([0, 1, 2, 3, 0, 2]))
        self.register_buffer("target", torch.tensor([1, 2, 3, 0, 2, 0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            pair = torch.cat([x.index_select(1, self.source), x.index_select(1, self.target)], dim=-1)
            x = x + torch.zeros_like(x).index_add(1, self.target, self.message(pair).tanh())
        return x.square().sum((1, 2))


class MessagePassingFlat(MessagePassing):
    """The same with the nodes of all samples in one long list, as graph libraries batch them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = 4 * torch.arange(x.shape[0])[:, None]
        source, target = (start + self.source).flatten(), (start + self.target).flatten()
        nodes = x.reshape(-1, 5)
        pair = torch.cat([nodes[source], nodes[target]], dim=-1)
        nodes = nodes.index_add(0, target, self.message(pair).tanh())
        return nodes.reshape(x.shape).square().sum((1, 2))


def write_column(x: torch.Tensor) -> torch.Tensor:
    h = x * 1.5
    h[:, 0] *= 2
    return h.sin()


def write_slices(x: torch.Tensor) -> torch.Tensor:
    h = x.clone()
    h[:, 1:] += x[:, :-1].sin()
    h[:, :, ::2] = h[:, :, ::2].clone().square()
    h[:, 2, 3] = 0.3
    h[..., -1].mul_(0.5)
    return h


def write_before_and_after(x: torch.Tensor) -> torch.Tensor:
    """What was read before a write keeps its old value."""
    h = x.sin()
    before = h[:, 0] * 2
    h[:, 0] = h[:, 1] * 1.5 + h[:, 2]
    return torch.cat([h.flatten(1), before], dim=1)


TOKEN = torch.linspace(-1, 1, 5)


def write_token(x: torch.Tensor, mask: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    h = x.sin()
    h[mask] = token.to(x.dtype)
    return h * x


def write_masked(x: torch.Tensor) -> torch.Tensor:
    h = x.clone()
    h[x > 0.5] = 0.1
    h[h < -1] = -1.0
    return h * x.cos()


def write_through_views(x: torch.Tensor) -> torch.Tensor:
    h = x.clone()
    h.transpose(1, 2)[:, 0].add_(1.0)
    h.view(-1, 20)[:, 3:7].mul_(x.flatten(1)[:, :4])
    h.diagonal(dim1=1, dim2=2).exp_()
    return h


def write_buffer(x: torch.Tensor) -> torch.Tensor:
    """A padded canvas, filled in place."""
    canvas = torch.zeros(x.shape[0], 6, 8, dtype=x.dtype)
    canvas[:, 1:5, 2:7] = x
    canvas[:, 0] = canvas[:, 1] * 2
    canvas[:, :, :2].fill_(0.4)
    return canvas.sin()


def write_mask(x: torch.Tensor) -> torch.Tensor:
    """Every other entry of a mask that x decides about is another."""
    mask = x > 0.2
    mask[:, ::2] = False
    mask[:, :, 1:4:2] = x[:, :, :2] > -0.5
    return x.sin() * mask + 0.1 * x


def copy_in_place(x: torch.Tensor) -> torch.Tensor:
    h = torch.empty_like(x)
    h.copy_(x.sin())
    h[:, 1].copy_(x[:, 2] * x[:, 0])
    h[:, 3].zero_()
    return h


def index_put(x: torch.Tensor, accumulate: bool) -> torch.Tensor:
    rows, columns = torch.tensor([0, 2, 3]), torch.tensor([1, 1, 4])
    batch = torch.arange(x.shape[0]).unsqueeze(1)
    return x.index_put((batch, rows, columns), x[:, :3, 0].sin() * 3, accumulate=accumulate)


def coordinates(x: torch.Tensor) -> torch.Tensor:
    """Coordinates as extra channels, from meshgrid."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, 4, dtype=x.dtype), torch.linspace(-1, 1, 5, dtype=x.dtype), indexing="ij"
    )
    grid = torch.stack([rows, columns]).expand(x.shape[0], 2, 4, 5)
    return torch.cat([x, grid], dim=1).cumsum(1).sin()


def haar(x: torch.Tensor) -> torch.Tensor:
    """One level of the Haar wavelet by strided slices."""
    even, odd = x[:, 0::2], x[:, 1::2]
    return torch.cat([(even + odd) / 2**0.5, (even - odd) / 2**0.5], dim=1)


def minibatch_shape(x: torch.Tensor) -> torch.Tensor:
    """Shapes read from x, as code that serves every size does."""
    batch, channels, height, width = x.shape
    h = x.view(batch, channels, height * width).transpose(1, 2).reshape(batch * height * width, channels)
    return (h.sin() * h.sum(1, keepdim=True)).reshape(batch, -1)


def own_places(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Reads each sample at places of its own, some of them twice, one counted from the end."""
    batch = torch.arange(x.shape[0])[:, None]
    return x[batch, places - 4, places.flip(1)] * x[batch, :, places[:, :1]].sum(2)


def same_places(x: torch.Tensor) -> torch.Tensor:
    """Constant places, the same in each sample, with a dimension of 1 where the batch's own numbers stand."""
    batch = torch.arange(x.shape[0])[:, None]
    return x[batch, torch.tensor([0, 2, 2])[None]].square() + x[batch, torch.tensor([[1, -1, 0]])]


def pooled_by(reduce: str, include_self: bool) -> Case:
    """Rows pooled by cluster; nothing comes to one place, and the last column is not touched."""

    def pool(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        clusters = (places[:, :4, None] % 3).expand(-1, -1, 4)
        return x.cos().scatter_reduce(1, clusters, x[:, :4, :4] * 1.5 + 0.2, reduce, include_self=include_self)

    return Case(seeded(lambda: OnPlaces(pool)), S, PLACES, spread=True)


def counted(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """How often each row is named, in whole numbers, by both ways of adding."""
    ones = torch.ones_like(places)
    counts = torch.zeros_like(places[:, :4]).scatter_add(1, places, ones)
    fixed = torch.zeros_like(counts).index_add(1, torch.tensor([1, 1, 3, 0, 1, 0]), places)
    return x.sin() * (counts + fixed).unsqueeze(-1)


def add_at_own_places(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    batch = torch.arange(x.shape[0]).view(-1, 1, 1)
    rows = places.view(-1, 3, 2)
    return x.index_put((batch, rows, torch.tensor([1, -1])), x[:, :3, :2].sin() * 3, accumulate=True)


def read_permuted(x: torch.Tensor) -> torch.Tensor:
    """More places than a 0/1 matrix is written for, each read once or twice."""
    order = (torch.arange(2500) * 7) % 2203
    return x[:, order].sin() * x.flip(1)[:, :2500]


CASES: dict[str, Case] = {
    # picking
    "gather": Case(seeded(lambda: OnPlaces(lambda x, i: x.gather(1, i.unsqueeze(-1).expand(-1, -1, 5)))), S, PLACES),
    "gather_part": Case(seeded(lambda: OnPlaces(lambda x, i: x.gather(1, i[:, :, None].expand(-1, -1, 2)))), S, PLACES),
    "bucketize": op_case(
        lambda x, table: table[torch.bucketize(x, torch.tensor([-1.0, -0.2, 0.4, 1.1]))] * x, S, (5,), spread=True
    ),
    "bucketize_right": op_case(
        lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]), right=True, out_int32=True) * x, S, spread=True
    ),
    "searchsorted": op_case(lambda x: torch.searchsorted(torch.linspace(-2, 2, 7), x) * x.sin(), S, spread=True),
    "searchsorted_rows": op_case(
        lambda x, rows: torch.searchsorted(rows.sort(-1).values.repeat(x.shape[0], 1, 1), x, side="right") * x.sin(),
        S,
        (4, 6),
        spread=True,
    ),
    "gather_leading": op_case(lambda x: x.gather(2, torch.tensor([[[0, 3, 1]]]).expand(x.shape[0], 2, 3)), S),
    "gather_leading_of_two": op_case(
        lambda x: x[..., None].sin().gather(1, torch.tensor([[[[2]], [[0]]]]).expand(x.shape[0], 2, 3, 1)), S
    ),
    "gather_last": op_case(lambda x: x.gather(2, x.argsort(2)[:, :, :3]), S, spread=True),
    "gather_constant": op_case(lambda x: x.gather(1, torch.tensor([[[0, 3, 1, 1, 2]]]).expand(x.shape[0], 2, 5)), S),
    "take_along_dim": op_case(lambda x: torch.take_along_dim(x, x.argsort(1, descending=True), 1), S, spread=True),
    "index_list": op_case(lambda x: x[:, [2, 0, 0, 3]], S),
    "index_two_lists": op_case(lambda x: x[:, [0, 2, 3], [1, 1, 4]], S),
    "index_broadcast": op_case(lambda x: x[:, torch.tensor([[0], [2]]), torch.tensor([1, 3, 1])], S),
    "index_separated": op_case(lambda x: x[:, [0, 2], :, [1, 3]].movedim(0, 1), IMAGE),
    "index_batch_and_label": Case(
        seeded(lambda: OnLabel(lambda x, i: x[torch.arange(x.shape[0]), i] * x.sum(1))), S, LABEL
    ),
    "index_own_places": Case(seeded(lambda: OnPlaces(own_places)), S, PLACES),
    "index_batch_second": op_case(lambda x: x.transpose(0, 1)[[2, 0, 0]].transpose(0, 1), S),
    "index_many_places": op_case(read_permuted, (3000,)),
    "index_bool_constant": op_case(lambda x: x[:, torch.tensor([True, False, True, True]), :], S),
    "index_bool_two_dims": op_case(lambda x: x[:, torch.ones(4, 5, dtype=torch.bool).tril()], S),
    "index_negative": op_case(lambda x: x[:, [-1, -3]] * x[..., -2:].sum(-1, keepdim=True).mean(1, keepdim=True), S),
    "slice_step": op_case(lambda x: x[:, ::2, 1::3], S),
    "slice_ellipsis_none": op_case(lambda x: x[..., None, 1:-1] * x[:, None, ..., :3], S),
    "slice_single": op_case(lambda x: x[:, 1:2] * x[:, 2:3].sin(), S),
    "slice_of_nothing": op_case(lambda x: x.sin() + x[:, 4:].square().sum((1, 2), keepdim=True), S),
    "slice_of_nothing_joined": op_case(
        lambda x: torch.cat([x.sin(), x[:, 4:].cos()], 1) + x[:, :, 5:].prod(2, keepdim=True), S
    ),
    "narrow": op_case(lambda x: x.narrow(2, 1, 3), S),
    "select": op_case(lambda x: x.select(1, -1) * x.select(1, 0), S),
    "index_select": op_case(lambda x: x.index_select(2, torch.tensor([4, 0, 0, 2])), S),
    "unbind": op_case(lambda x: x.unbind(1)[0] * x.unbind(1)[2], S),
    "diagonal": op_case(lambda x: torch.diagonal(x, offset=1, dim1=1, dim2=2), S),
    "diagonal_below": op_case(lambda x: torch.diagonal(x, offset=-1, dim1=2, dim2=1), S),
    "tril": op_case(lambda x: torch.tril(x, 1) + torch.triu(x, 2).sin(), S),
    "tril_indices": op_case(lambda x: x[:, torch.tril_indices(4, 4, -1)[0], torch.tril_indices(4, 4, -1)[1]], S),
    "masked_fill": Case(seeded(lambda: OnMask(lambda x, m: x.masked_fill(m, 0.3) * x)), S, MASK),
    "masked_fill_minus_infinity": Case(
        seeded(lambda: OnMask(lambda x, m: x.masked_fill(m, float("-inf")).softmax(-1) * x)), S, MASK
    ),
    "where_mask": Case(seeded(lambda: OnMask(lambda x, m: torch.where(m, x.sin(), x.flip(1)))), S, MASK),
    "masked_mean": Case(seeded(lambda: OnMask(lambda x, m: (x * ~m).sum(-1) / (~m).sum(-1).clamp(min=1))), S, MASK),
    "one_hot": Case(seeded(OneHot), (5,), LABEL),
    # placing
    "scatter": op_case(lambda x: x.sin().scatter(2, x.argmax(2, keepdim=True), 2 * x[:, :, :1]), S, spread=True),
    "scatter_value": op_case(lambda x: x.scatter(2, x.argmin(2, keepdim=True), 0.7), S, spread=True),
    "scatter_part_of_source": op_case(
        lambda x, w: x.sin().scatter(1, x.argsort(1)[:, :2, :3], w.expand(x.shape[0], 4, 5)), S, (1, 4, 5), spread=True
    ),
    "scatter_value_part": Case(
        seeded(lambda: OnPlaces(lambda x, i: x.sin().scatter(1, i[:, :2, None].expand(-1, -1, 3), 0.7))), S, PLACES
    ),
    "scatter_add": Case(
        seeded(lambda: OnPlaces(lambda x, i: x.sin().scatter_add(1, i[:, :5, None].expand(-1, -1, 5)[:, :4], x * 2))),
        S,
        PLACES,
    ),
    "index_add": op_case(lambda x: x.index_add(1, torch.tensor([1, 1, 3]), x[:, :3].sin(), alpha=2.0), S),
    "scatter_add_integers": Case(seeded(lambda: OnPlaces(counted)), S, PLACES),
    "scatter_reduce_sum": pooled_by("sum", True),
    "scatter_reduce_mean": pooled_by("mean", True),
    "scatter_reduce_mean_of_others": pooled_by("mean", False),
    "scatter_reduce_amax": pooled_by("amax", True),
    "scatter_reduce_amin_of_others": pooled_by("amin", False),
    "scatter_reduce_prod": pooled_by("prod", True),
    "index_copy": op_case(lambda x: x.index_copy(1, torch.tensor([2, 0]), x[:, 2:].square()), S),
    "index_fill": op_case(lambda x: x.index_fill(2, torch.tensor([1, 3]), 0.4) * x.cos(), S),
    "index_put": op_case(lambda x: index_put(x, accumulate=False), S),
    "index_put_accumulate": op_case(lambda x: index_put(x, accumulate=True), S),
    "index_constant_places_of_each_sample": op_case(same_places, S),
    "index_put_accumulate_own_places": Case(seeded(lambda: OnPlaces(add_at_own_places)), S, PLACES),
    "index_put_accumulate_scalar": op_case(
        lambda x: x.index_put((torch.arange(x.shape[0]), torch.tensor(2)), x.new_tensor(0.7), accumulate=True).sin(), S
    ),
    "slice_scatter": op_case(lambda x: torch.slice_scatter(x, x[:, :2].sin(), dim=1, start=1, end=4, step=2), S),
    "select_scatter": op_case(lambda x: torch.select_scatter(x, x[:, 0].square(), 1, 2), S),
    "diagonal_scatter": op_case(lambda x: torch.diagonal_scatter(x.sin(), x[:, :, 0], dim1=1, dim2=2), S),
    "diag_embed": op_case(lambda x: torch.diag_embed(x, offset=1) @ torch.ones(6, 2, dtype=x.dtype), S),
    "message_passing": Case(seeded(MessagePassing), S),
    "message_passing_flat": Case(seeded(MessagePassingFlat), S),
    # joining and cutting
    "cat": op_case(lambda x: torch.cat([x, x.sin(), x[:, :1]], dim=1), S),
    "cat_negative_dim_constant": op_case(
        lambda x, w: torch.cat([x, w.expand(x.shape[0], 4, 2)], -1).cumsum(-1), S, (1, 4, 2)
    ),
    "stack": op_case(lambda x: torch.stack([x, x.sin()], dim=2), S),
    "stack_last": op_case(lambda x: torch.stack([x[:, 0], x[:, 1] * x[:, 2]], dim=-1), S),
    "split": op_case(lambda x: x.split(2, dim=2)[0] * x.split(2, dim=2)[1] + x.split(2, dim=2)[2], S),
    "split_sizes": op_case(lambda x: x.split([1, 3], dim=1)[1] * x.split([1, 3], dim=1)[0], S),
    "chunk": op_case(lambda x: torch.cat([part.sin() * n for n, part in enumerate(x.chunk(3, dim=2), 1)], 2), S),
    "tensor_split": op_case(lambda x: x.tensor_split((1, 3), dim=2)[1] * x.tensor_split((1, 3), dim=2)[0], S),
    "hsplit_concat": op_case(lambda x: torch.hstack([x, x.square()]) + torch.cat([x.cos(), x], 1), S),
    # turning
    "roll": op_case(lambda x: x.roll(2, 2), S),
    "roll_two_dims": op_case(lambda x: x.roll((1, -2), (1, 2)) * x, S),
    "roll_flat": op_case(lambda x: torch.vmap(lambda one: one.roll(3))(x), S),
    "flip": op_case(lambda x: x.flip(2), S),
    "flip_two_dims": op_case(lambda x: x.flip(1, -1) * x, S),
    "rot90": op_case(lambda x: torch.rot90(x, 1, (1, 2)), S),
    "permute": op_case(lambda x: x.permute(0, 3, 1, 2), IMAGE),
    "transpose": op_case(lambda x: x.transpose(1, 3).contiguous(), IMAGE),
    "movedim": op_case(lambda x: x.movedim(1, -1), IMAGE),
    "mT": op_case(lambda x: x.mT, IMAGE),
    "swapaxes_reshape": op_case(lambda x: x.swapaxes(1, 2).reshape(-1, 6, 10), IMAGE),
    "view_flatten_unflatten": op_case(lambda x: x.flatten(1, 2).unflatten(1, (2, 6)).transpose(1, 2), IMAGE),
    "squeeze_unsqueeze": op_case(lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1) * x.unsqueeze(2), S),
    "view_as_shape_read": op_case(minibatch_shape, IMAGE),
    "channels_last": op_case(lambda x: x.contiguous(memory_format=torch.channels_last).sin(), IMAGE),
    # repeating
    "repeat": op_case(lambda x: x.repeat(1, 2, 3), S),
    "repeat_interleave": op_case(lambda x: x.repeat_interleave(2, dim=1), S),
    "repeat_interleave_counts": op_case(lambda x: x.repeat_interleave(torch.tensor([1, 0, 2, 3]), dim=1), S),
    "tile": op_case(lambda x: x.tile(2, 1), S),
    "expand": op_case(lambda x: x.unsqueeze(2).expand(-1, -1, 3, -1), S),
    "broadcast_to": op_case(lambda x: torch.broadcast_to(x[:, :, None], (x.shape[0], 4, 2, 5)), S),
    "unfold": op_case(lambda x: x.unfold(2, 3, 1), S),
    "unfold_step": op_case(lambda x: x.unfold(2, 2, 2), S),
    "unfold_two_dims": op_case(lambda x: x.unfold(2, 2, 1).unfold(3, 3, 2), IMAGE),
    "meshgrid_channels": op_case(coordinates, IMAGE),
    "haar": op_case(haar, S),
    "complex_free_pairs": op_case(lambda x: torch.stack([x[..., 0::2] * x[..., 1::2], x[..., 0::2]], -1), (3, 6)),
    # writing in place
    "write_column": op_case(write_column, S),
    "write_slices": op_case(write_slices, S),
    "write_before_and_after": op_case(write_before_and_after, S),
    "write_masked": op_case(write_masked, S),
    "write_token": op_case(lambda x, token: write_token(x, x[..., 0] > 0, token), (4, 5, 6), (6,)),
    "write_token_row": op_case(lambda x, token: write_token(x, x[..., 0] > 0, token), (4, 5, 6), (1, 6)),
    "write_token_planes": op_case(lambda x, token: write_token(x, x[:, :, 0, 0] > 0, token), (4, 5, 6), (5, 6)),
    "write_token_added": op_case(
        lambda x, token: x.index_put((x[..., 0] > 0,), token, accumulate=True), (4, 5, 6), (6,)
    ),
    "write_token_on_mask": Case(seeded(lambda: OnMask(lambda x, m: write_token(x, m[:, :, 0], TOKEN))), S, MASK),
    "write_through_views": op_case(write_through_views, S),
    "write_buffer": op_case(write_buffer, S),
    "write_mask": op_case(write_mask, S),
    "copy_in_place": op_case(copy_in_place, S),
    "masked_fill_in_place": op_case(lambda x: (x * 2).masked_fill_(x > 0.3, 0.5) + x.sin(), S),
    "index_add_in_place": op_case(lambda x: (x * 2).index_add_(1, torch.tensor([0, 0]), x[:, 2:].sin()), S),
    "scatter_add_in_place": op_case(
        lambda x: torch.zeros_like(x).scatter_add_(2, (x > 0).long() * 2, x.sin() * 2) * x, S
    ),
}
