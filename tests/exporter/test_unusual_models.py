"""Energies with the less usual features of PyTorch: verified on every engine, or refused with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.errors import ContractError, EbmExportError, UnsupportedOperation

CONFIG = SamplerConfig(steps=6, step_size=0.05, noise=0.01)
Energy = Callable[..., torch.Tensor]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).squeeze(-1)


class LabelMaps(nn.Module):
    """The label as one-hot maps beside the image, as an embedding, and as an index into the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.embed = nn.Conv2d(6, 8, 3, padding=1), nn.Linear(8, 5), nn.Embedding(5, 8)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        label = label.long()
        maps = F.one_hot(label, 5).float()[:, :, None, None].expand(-1, -1, *x.shape[2:])
        h = F.leaky_relu(self.conv(torch.cat([x, maps], 1)), 0.2).mean((2, 3))
        logits = self.head(h) + (h * self.embed(label)).sum(1, keepdim=True)
        return -logits[torch.arange(len(label)), label]


class PointSet(nn.Module):
    """Attention over points, some of them padding, pooled by a learned query."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.out = nn.Linear(3, 16), nn.LayerNorm(16), nn.Linear(16, 1)
        self.mix = nn.MultiheadAttention(16, 4, batch_first=True)
        self.pool = nn.MultiheadAttention(16, 2, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, points: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        h = self.embed(points)
        h = self.norm(h + self.mix(h, h, h, key_padding_mask=padding, need_weights=False)[0])
        pooled, _ = self.pool(self.query.expand(len(h), -1, -1), h, h, key_padding_mask=padding)
        return self.out(pooled[:, 0]) + 0.1 * (points.square().sum(-1) * ~padding).sum(1, keepdim=True)


class Tied(nn.Module):
    """Reconstruction with the encoder's weights transposed, and one layer applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.back = nn.Linear(4, 8), nn.Parameter(torch.zeros(4))
        self.layers = nn.ModuleList([nn.Linear(8, 8)] * 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.encode(x))
        for layer in self.layers:
            h = h + torch.tanh(layer(h))
        return (x - F.linear(h, self.encode.weight.t(), self.back)).square().sum(-1)


class Counting(Mlp):
    """Counts its calls in a buffer, and marks itself as initialised in another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if not self.ready:
            self.ready.fill_(True)
        return super().forward(x)


class Recomputed(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class ScoreNorm(Mlp):
    """Adds the squared norm of its own gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = super().forward
        grad = torch.vmap(torch.func.grad(lambda v: own(v[None])[0]))(x)
        return own(x) + 0.1 * grad.square().sum(1)


class Volume(nn.Module):
    """Penalises the Jacobian of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        jacobian = torch.vmap(torch.func.jacrev(self.encode))(x)
        return self.encode(x).square().sum(1) + 0.1 * jacobian.square().sum((1, 2))


class Curvature(nn.Module):
    """Adds the trace of a Hessian, forward over reverse, as score matching has it."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hessian = torch.vmap(torch.func.hessian(self.function))(x)
        return hessian.diagonal(dim1=1, dim2=2).sum(1) + x.square().sum(1)


MATRIX = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(Mlp() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parameters, buffers = torch.func.stack_module_state(list(self.nets))
        first = self.nets[0]
        call = torch.vmap(lambda p, b, x: torch.func.functional_call(first, (p, b), (x,)), in_dims=(0, 0, None))
        return call(parameters, buffers, x).mean(0)


class Pairs(nn.Module):
    """Distances of pairs, weights looked up by the kinds of both, and writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.out = nn.Parameter(torch.rand(3, 4, 2)), nn.Linear(10, 1)
        self.register_buffer("pairs", torch.triu_indices(5, 5, 1))

    def forward(self, x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        i, j = self.pairs
        distance = (x[:, i] - x[:, j]).norm(dim=-1)
        weight = self.weights[..., 0][kind[:, i] % 3, kind[:, j] % 4]
        moved = x.clone()
        moved[:, 1:3] *= 2
        moved[:, -1, 0] = 0.0
        return self.out(torch.exp(-distance) * weight).squeeze(-1) + 0.1 * moved.square().sum((1, 2))


def compiled_inside() -> nn.Module:
    model = Mlp()
    model.net = torch.compile(model.net)
    return model


def padding() -> torch.Tensor:
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[1, 4:] = mask[3, 2:] = True
    return mask


LABELS = torch.tensor([0, 4, 2, 1, 3], dtype=torch.uint8)
VERIFIED: dict[str, tuple[Callable[[], Energy], tuple[int, ...], dict[str, torch.Tensor]]] = {
    "label_maps": (LabelMaps, (1, 8, 8), {"label": LABELS}),
    "point_set": (PointSet, (6, 3), {"padding": padding()}),
    "tied": (Tied, (4,), {}),
    "counting": (Counting, (4,), {}),
    "checkpoint": (Recomputed, (4,), {}),
    "vmap_of_grad": (ScoreNorm, (4,), {}),
    "vmap_of_jacrev": (Volume, (4,), {}),
    "hessian_of_power": (lambda: Curvature(lambda v: (v**4).sum()), (4,), {}),
    "hessian_of_product": (lambda: Curvature(lambda v: (MATRIX @ v).tanh().sum()), (4,), {}),
    "hessian_of_square": (lambda: Curvature(lambda v: (v**2).sum() * v[0]), (4,), {}),
    "stacked_ensemble": (Ensemble, (4,), {}),
    "pairs": (Pairs, (5, 3), {"kind": torch.randint(0, 3, (5, 5), generator=torch.Generator().manual_seed(0))}),
    "compiled_inside": (compiled_inside, (4,), {}),
    "compiled_function": (lambda: torch.compile(lambda x: x.sin().square().sum(1)), (4,), {}),
    "data_parallel": (lambda: nn.DataParallel(Mlp()), (4,), {}),
}


# The compiler's own imports warn.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", VERIFIED)
def test_verified(name: str, tmp_path: Path) -> None:
    build, shape, cond = VERIFIED[name]
    torch.manual_seed(0)
    model = build()
    if isinstance(model, nn.Module):
        model.eval()
    targets = ["onnx", "onnxruntime", "openvino"]
    export(model, torch.randn(5, *shape), cond=cond, out=tmp_path / "m.ebm", targets=targets, sampler=CONFIG)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LazyLinear(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class MadeInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.head is None:
            self.head = nn.Linear(x.shape[1], 1)
        return self.head(x)


class MovingMean(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return super().forward(x - self.mean)


def spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfft(x).abs().sum(-1)


REFUSED: dict[str, tuple[Callable[[], Energy], type[EbmExportError], str]] = {
    "lazy": (Lazy, ContractError, "'net.weight' has no shape yet .* run the model once on a batch"),
    "made_in_forward": (
        MadeInForward,
        ContractError,
        "forward makes the parameter 'head.weight' .* run the model once",
    ),
    "moving_mean": (MovingMean, ContractError, "changes its own state in forward"),
    "complex": (lambda: spectrum, UnsupportedOperation, "_fft_r2c.*test_unusual_models.py:.* gives complex64 numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    build, kind, text = REFUSED[name]
    model = build()
    if isinstance(model, nn.Module):
        model.eval()
    with pytest.raises(kind, match=text):
        export(model, torch.randn(5, 4), out=tmp_path / "m.ebm", sampler=CONFIG)
    assert not list(tmp_path.iterdir())


def test_lazy_models_that_have_run_once(tmp_path: Path) -> None:
    for index, model in enumerate((Lazy().eval(), MadeInForward().eval())):
        model(torch.zeros(2, 4))
        export(model, torch.randn(5, 4), out=tmp_path / f"{index}.ebm", sampler=CONFIG)
