"""Attention: by hand, as one function, as modules and as whole transformers, with every kind of mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from . import Case, CondSpec
from .op_energy import module_case, op_case, randomise, seeded

__all__ = ["CASES"]

TOKENS = (5, 8)
HEADS = (2, 5, 4)
HIDDEN = {"hidden": CondSpec((5,), "bool")}


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on x alone."""

    def __init__(self, batch_first: bool = True, need_weights: bool = False, average: bool = True, **options: object):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **options)
        self.batch_first, self.need_weights, self.average = batch_first, need_weights, average
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x if self.batch_first else x.transpose(0, 1)
        out, weights = self.attention(
            tokens, tokens, tokens, need_weights=self.need_weights, average_attn_weights=self.average
        )
        energy = (out if self.batch_first else out.transpose(0, 1)).sin().square().sum((1, 2))
        return energy if weights is None else energy + (weights * weights.cos()).flatten(1).sum(1)


class MaskedSelfAttention(nn.Module):
    """Some keys are hidden, as a condition says; with a causal mask on top if wished."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.causal = causal
        randomise(self)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if self.causal else None
        out = self.attention(x, x, x, key_padding_mask=hidden, attn_mask=mask, need_weights=False)[0]
        return (out.tanh().square().sum(-1) * ~hidden).sum(1)


class CrossAttention(nn.Module):
    """x asks, a condition answers, of another width; or the other way round."""

    def __init__(self, x_asks: bool = True) -> None:
        super().__init__()
        width = 6 if x_asks else 8
        self.attention = nn.MultiheadAttention(
            8 if x_asks else 6, 2, kdim=width, vdim=width, batch_first=True, bias=False
        )
        self.x_asks = x_asks
        randomise(self)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        query, key = (x, context) if self.x_asks else (context, x)
        return self.attention(query, key, key, need_weights=False)[0].sin().square().sum((1, 2))


class Encoder(nn.Module):
    """nn.TransformerEncoder over tokens plus a learned place, the mean of the output as energy."""

    def __init__(self, layers: int = 2, causal: bool = False, final_norm: bool = False, **options: object) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, **{"batch_first": True, **options})
        norm = nn.LayerNorm(8) if final_norm else None
        self.encoder = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
        self.place = nn.Parameter(torch.randn(5, 8))
        self.head = nn.Linear(8, 1)
        self.causal = causal
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=x.dtype) if self.causal else None
        h = self.encoder(x + self.place, mask=mask, is_causal=self.causal)
        return self.head(h.tanh()).squeeze(-1).sum(1)


class DefaultEncoder(nn.Module):
    """nn.TransformerEncoder as it comes, nested tensors and fast path not ruled out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2)
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x).sin().square().sum((1, 2))


class MaskedEncoder(nn.Module):
    """nn.TransformerEncoder with hidden tokens."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        randomise(self)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        h = self.encoder(x, src_key_padding_mask=hidden)
        return (h.sin().sum(-1) * ~hidden).sum(1)


class Decoder(nn.Module):
    """nn.TransformerDecoderLayer: x under a causal mask, a condition as memory."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, **options)
        randomise(self)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        mask = torch.full((5, 5), float("-inf"), dtype=x.dtype).triu(1)
        return self.layer(x, memory, tgt_mask=mask).sin().square().sum((1, 2))


class WholeTransformer(nn.Module):
    """nn.Transformer from a condition to x."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 1, 12, batch_first=True)
        randomise(self)

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return self.transformer(source, x).sin().square().sum((1, 2))


class ImageAttention(nn.Module):
    """Attention over the places of an image with 1x1 convolutions and a learned gate, as in self-attention GANs."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.value = nn.Conv2d(4, 4, 1)
        self.gate = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)
        h = self.gate * torch.bmm(value, weights.transpose(1, 2)).view_as(x) + x
        return torch.tanh(h).square().sum((1, 2, 3))


class PackedAttention(nn.Module):
    """One projection to query, key and value, split by reshape, with relative bias and rotated halves."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=False)
        self.bias = nn.Parameter(torch.randn(2, 5, 5))

    @staticmethod
    def rotate(h: torch.Tensor) -> torch.Tensor:
        place = torch.arange(h.shape[2], dtype=h.dtype).unsqueeze(1)
        angle = place / 10.0 ** torch.arange(2, dtype=h.dtype)
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        left, right = h.chunk(2, dim=-1)
        return h * cos + torch.cat([-right, left], dim=-1) * sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        query, key, value = self.qkv(x).reshape(batch, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(self.rotate(query), self.rotate(key), value, attn_mask=self.bias)
        return h.transpose(1, 2).reshape(batch, tokens, width).sin().square().sum((1, 2))


def sdpa(x: torch.Tensor, **options: object) -> torch.Tensor:
    """Query, key and value are three functions of x [B, heads, tokens, width]."""
    return F.scaled_dot_product_attention(x, x.sin() * 1.5, x.roll(1, -1), **options)


def grouped_query(x: torch.Tensor) -> torch.Tensor:
    """Four query heads share two heads of keys and values."""
    return F.scaled_dot_product_attention(x, x[:, :2].sin(), x[:, 2:], enable_gqa=True)


def hidden_by_value(x: torch.Tensor) -> torch.Tensor:
    """A mask computed from x: a token does not see those of larger first number."""
    first = x[..., 0]
    mask = first.unsqueeze(-1) >= first.unsqueeze(-2)
    return F.scaled_dot_product_attention(x, x.sin(), x, attn_mask=mask)


def linear_attention(x: torch.Tensor) -> torch.Tensor:
    """Attention without softmax, its normaliser written out."""
    query, key = F.elu(x) + 1, F.elu(x.roll(1, -1)) + 1
    memory = key.mT @ x
    return (query @ memory) / (query @ key.sum(-2, keepdim=True).mT)


CASES: dict[str, Case] = {
    "self": Case(seeded(SelfAttention), TOKENS),
    "self_weights": Case(seeded(lambda: SelfAttention(need_weights=True)), TOKENS),
    "self_weights_per_head": Case(seeded(lambda: SelfAttention(need_weights=True, average=False)), TOKENS),
    "self_tokens_first": Case(seeded(lambda: SelfAttention(batch_first=False)), TOKENS),
    "self_no_bias": Case(seeded(lambda: SelfAttention(bias=False)), TOKENS),
    "self_extra_key": Case(seeded(lambda: SelfAttention(add_bias_kv=True, add_zero_attn=True)), TOKENS),
    "self_dropout_in_eval": Case(seeded(lambda: SelfAttention(dropout=0.3)), TOKENS),
    "self_hidden_keys": Case(seeded(MaskedSelfAttention), TOKENS, HIDDEN),
    "self_hidden_keys_causal": Case(seeded(lambda: MaskedSelfAttention(causal=True)), TOKENS, HIDDEN),
    "cross": Case(seeded(CrossAttention), TOKENS, {"context": CondSpec((3, 6))}),
    "cross_x_answers": Case(seeded(lambda: CrossAttention(x_asks=False)), TOKENS, {"context": CondSpec((3, 6))}),
    "image": Case(seeded(ImageAttention), (4, 3, 4)),
    "packed_rotary_bias": Case(seeded(PackedAttention), TOKENS),
    "linear_attention": op_case(linear_attention, HEADS),
    "sdpa": op_case(sdpa, HEADS),
    "sdpa_three_dims": op_case(sdpa, TOKENS),
    "sdpa_causal": op_case(lambda x: sdpa(x, is_causal=True), HEADS),
    "sdpa_scale": op_case(lambda x: sdpa(x, scale=2.0), HEADS),
    "sdpa_bias": op_case(lambda x, w: sdpa(x, attn_mask=w), HEADS, (5, 5)),
    "sdpa_bool_mask": op_case(lambda x, w: sdpa(x, attn_mask=(w > 0) | torch.eye(5, dtype=torch.bool)), HEADS, (5, 5)),
    "sdpa_row_fully_hidden": op_case(
        lambda x: sdpa(x, attn_mask=torch.arange(5).unsqueeze(1).expand(5, 5) > 1) + x, HEADS
    ),
    "sdpa_mask_from_x": op_case(hidden_by_value, HEADS, spread=True),
    "sdpa_cross": op_case(
        lambda x, k, v: F.scaled_dot_product_attention(x, k.sin() + x[:, :, :3], v + 0 * k), HEADS, (2, 3, 4), (2, 3, 4)
    ),
    "sdpa_grouped_query": op_case(grouped_query, (4, 5, 4)),
    "sdpa_large_logits": op_case(lambda x: sdpa(x, scale=20.0), HEADS),
    "encoder_layer": module_case(lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), TOKENS),
    "encoder_layer_norm_first": module_case(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True, activation="gelu"), TOKENS
    ),
    "encoder_layer_no_bias": module_case(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, bias=False, activation=F.silu), TOKENS
    ),
    "encoder": Case(seeded(Encoder), TOKENS),
    "encoder_default": Case(seeded(DefaultEncoder), TOKENS),
    "encoder_norm_first": Case(seeded(lambda: Encoder(norm_first=True, final_norm=True, activation="gelu")), TOKENS),
    "encoder_causal": Case(seeded(lambda: Encoder(causal=True, norm_first=True)), TOKENS),
    "encoder_one_layer": Case(seeded(lambda: Encoder(layers=1)), TOKENS),
    "encoder_hidden_tokens": Case(seeded(MaskedEncoder), TOKENS, HIDDEN),
    "decoder_layer": Case(seeded(Decoder), TOKENS, {"memory": CondSpec((3, 8))}),
    "decoder_layer_norm_first": Case(seeded(lambda: Decoder(norm_first=True)), TOKENS, {"memory": CondSpec((3, 8))}),
    "transformer": Case(seeded(WholeTransformer), TOKENS, {"source": CondSpec((4, 8))}),
}
