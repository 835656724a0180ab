"""Energies the way papers write them, made small."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

from . import Case, CondSpec
from .op_energy import randomise, seeded

__all__ = ["CASES"]


class IgebmBlock(nn.Module):
    """Residual block of Du and Mordatch (2019), arXiv:1903.08689: spectral norm, leaky ReLU, class scale and shift."""

    def __init__(self, inside: int, outside: int, classes: int | None, downsample: bool) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(inside, outside, 3, padding=1, bias=classes is None))
        self.conv2 = spectral_norm(nn.Conv2d(outside, outside, 3, padding=1, bias=classes is None), name="weight")
        self.scale = nn.Embedding(classes, outside) if classes is not None else None
        self.shift = nn.Embedding(classes, outside) if classes is not None else None
        self.skip = spectral_norm(nn.Conv2d(inside, outside, 1, bias=False)) if inside != outside else None
        self.downsample = downsample

    def forward(self, x: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        h = self.conv1(x)
        if self.scale is not None and self.shift is not None:
            h = h * (1 + self.scale(label))[:, :, None, None] + self.shift(label)[:, :, None, None]
        h = self.conv2(F.leaky_relu(h, 0.2))
        h = F.leaky_relu(h + (x if self.skip is None else self.skip(x)), 0.2)
        return F.avg_pool2d(h, 2) if self.downsample else h


class Igebm(nn.Module):
    """Residual energy network of Du and Mordatch (2019), unconditional."""

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.stem = spectral_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.blocks = nn.ModuleList(
            [
                IgebmBlock(4, 4, classes, downsample=True),
                IgebmBlock(4, 4, classes, downsample=False),
                IgebmBlock(4, 6, classes, downsample=True),
                IgebmBlock(6, 6, classes, downsample=False),
            ]
        )
        self.head = nn.Linear(6, 1)

    def features(self, x: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        h = F.leaky_relu(self.stem(x), 0.2)
        for block in self.blocks:
            h = block(h, label)
        return self.head(F.relu(h).flatten(2).sum(2)).squeeze(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x, None)


class ConditionalIgebm(Igebm):
    """The same network with a class label."""

    def __init__(self) -> None:
        super().__init__(classes=5)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.features(x, label)


class WideBlock(nn.Module):
    """Block of a wide residual network without normalisation."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.conv2 = nn.Conv2d(outside, outside, 3, stride=stride, padding=1)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inside, outside, 1, stride=stride))
            if stride != 1 or inside != outside
            else nn.Sequential()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.dropout(self.conv1(F.leaky_relu(x, 0.2)))
        return self.conv2(F.leaky_relu(h, 0.2)) + self.shortcut(x)


class WideResNet(nn.Module):
    """The classifier of JEM, Grathwohl et al. (2020), arXiv:1912.03263: depth 10, widened twice, logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 4, 6, 8)
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(
            *(WideBlock(a, b, stride) for a, b, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True))
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.leaky_relu(self.blocks(self.stem(x)), 0.2)
        return self.head(F.avg_pool2d(h, h.shape[-1]).flatten(1))


class JointWideResNet(WideResNet):
    """JEM with a label: minus the logit of that class."""

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return -torch.gather(super().forward(x), 1, label[:, None]).squeeze(1)


class BlurPool(nn.Module):
    """Antialiased downsampling of Zhang (2019), arXiv:1904.11486: reflected border, binomial kernel, stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        tap = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(tap, tap)
        self.register_buffer("kernel", (kernel / kernel.sum()).repeat(channels, 1, 1, 1))
        self.pad = nn.ReflectionPad2d((1, 2, 1, 2))
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(self.pad(x), self.kernel, stride=2, groups=self.channels)


class GatedAttention(nn.Module):
    """Self-attention over places with keys and values at half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.key = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.full((1,), 0.8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        query = self.query(x).view(batch, channels // 2, height * width)
        key = F.max_pool2d(self.key(x), 2).view(batch, channels // 2, -1)
        value = F.max_pool2d(self.value(x), 2).view(batch, channels // 2, -1)
        weights = F.softmax(torch.bmm(query.permute(0, 2, 1), key), dim=-1)
        h = torch.bmm(value, weights.permute(0, 2, 1)).view(batch, channels // 2, height, width)
        return x + self.gamma * self.out(h)


class AttentionNet(nn.Module):
    """Residual net with self-attention, blur pools and several scales that are added, after Du et al. (2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), GatedAttention(4), BlurPool(4), nn.Conv2d(4, 4, 3), nn.SiLU()
            )
            for _ in range(2)
        )
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = x.new_zeros(x.shape[0])
        for scale, (tower, head) in enumerate(zip(self.towers, self.heads, strict=True)):
            h = F.avg_pool2d(x, 2**scale) if scale else x
            energy = energy + head(tower(h).mean((2, 3))).squeeze(1)
        return energy


class SoftArgmaxPolicy(nn.Module):
    """Implicit behavioural cloning, Florence et al. (2021), arXiv:2109.00137: E(obs, action).

    The image encoder, with coordinate channels and a spatial softmax, does not see the action.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(5, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(14, 16), nn.ReLU(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 1))

    @staticmethod
    def grid(h: torch.Tensor) -> torch.Tensor:
        rows = torch.linspace(-1, 1, h.shape[2], dtype=h.dtype, device=h.device)
        columns = torch.linspace(-1, 1, h.shape[3], dtype=h.dtype, device=h.device)
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))

    def encode(self, obs: torch.Tensor) -> torch.Tensor:
        h = self.encoder(torch.cat([obs, self.grid(obs).expand(obs.shape[0], -1, -1, -1)], dim=1))
        weights = torch.softmax(h.flatten(2), dim=-1)
        return torch.einsum("bcp,dp->bcd", weights, self.grid(h).flatten(1)).flatten(1)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.encode(obs), action], dim=-1)).squeeze(-1)


class VectorPolicy(nn.Module):
    """The same idea for a state vector: an action is refined, state and goal are given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(7, 8), nn.LayerNorm(8), nn.SiLU())
        self.film = nn.Linear(8, 16)
        self.first, self.last = spectral_norm(nn.Linear(2, 8)), nn.Linear(8, 1)

    def forward(self, state: torch.Tensor, action: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        scale, shift = self.film(self.encoder(torch.cat([state, goal], dim=-1))).chunk(2, dim=-1)
        return self.last(F.silu(self.first(action) * (1 + scale) + shift))


class CausalTransformer(nn.Module):
    """Energy of a sequence of continuous tokens: how badly each token is predicted from those before it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True, activation="gelu")
        self.inside = nn.Linear(3, 8)
        self.place = nn.Parameter(torch.randn(6, 8))
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.outside = nn.Linear(8, 3)
        self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool).triu(1))
        randomise(self.body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(self.inside(x) + self.place[: x.shape[1]], mask=self.mask)
        return (self.outside(h[:, :-1]) - x[:, 1:]).square().sum((1, 2))


class RecurrentSequence(nn.Module):
    """Energy of a sequence: a GRU reads it, every state is judged, hidden steps do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.judge = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        energy = self.judge(self.gru(x)[0]).squeeze(-1) + 0.1 * x.square().sum(-1)
        return energy.masked_fill(hidden, 0.0).sum(1)


class Autoencoder(nn.Module):
    """Reconstruction error as energy, Zhao et al. (2017), arXiv:1609.03126."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 6, 4, 2, 1), nn.LeakyReLU(0.2)
        )
        self.bottleneck = nn.Linear(24, 5)
        self.widen = nn.Linear(5, 24)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 4, 2, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 4, 2, 1),
            nn.Tanh(),
        )
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.widen(self.bottleneck(self.encoder(x).flatten(1)))
        return (x - self.decoder(h.unflatten(1, (6, 2, 2)))).square().flatten(1).sum(1)


class UNetReconstruction(nn.Module):
    """Distance to a denoiser's answer: a small U-Net with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.join = nn.Conv2d(10, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h1 = F.silu(self.down1(x))
        h2 = F.silu(self.norm(self.down2(h1)))
        h = F.silu(self.join(torch.cat([self.up(h2), h1], dim=1)))
        return 0.5 * (x - self.out(h)).pow(2).sum((1, 2, 3))


class ScoreNorm(nn.Module):
    """||df/dx||^2 / 2 of a scalar network f: forward takes a gradient itself."""

    def __init__(self, convolutional: bool = False) -> None:
        super().__init__()
        self.net: nn.Module = (
            nn.Sequential(
                nn.Conv2d(1, 4, 3, stride=2, padding=1),
                nn.Softplus(),
                nn.Conv2d(4, 3, 3),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(12, 1),
            )
            if convolutional
            else nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 1))
        )

        with torch.no_grad():  # initial weights are so small that the score hardly depends on x
            for parameter in self.net.parameters():
                parameter.mul_(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            (score,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return 0.5 * score.square().flatten(1).sum(1)


class FourierFeatures(nn.Module):
    """Random Fourier features, Tancik et al. (2020), arXiv:2006.10739, then a deep network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 6))
        self.net = nn.Sequential(nn.Linear(14, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angle = 2 * math.pi * x @ self.frequencies
        return self.net(torch.cat([x, angle.sin(), angle.cos()], dim=-1)).squeeze(-1)


class ProductOfExperts(nn.Module):
    """Sum of weighted energies: Student-t experts on filter answers, Welling et al. (2003)."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, 5, 3, bias=False)
        self.log_weights = nn.Parameter(torch.randn(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        experts = torch.log1p(0.5 * self.filters(x).square()).sum((2, 3))
        return (experts * F.softplus(self.log_weights)).sum(1) + 0.05 * x.square().sum((1, 2, 3))


class SumOfNetworks(nn.Module):
    """A ModuleList of energies with temperatures, combined by logsumexp and by sum."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 6), act(), nn.Linear(6, 1)) for act in (nn.Tanh, nn.ELU, nn.Mish)
        )
        self.register_buffer("temperature", torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energies = torch.cat([expert(x) for expert in self.experts], dim=1)
        return -torch.logsumexp(-energies / self.temperature, dim=1) + energies.square().sum(1)


class GaussianRbm(nn.Module):
    """Free energy of a restricted Boltzmann machine with Gaussian visible and binary hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.visible = nn.Parameter(torch.randn(6))
        self.hidden = nn.Parameter(torch.randn(4))
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.log_variance = nn.Parameter(0.3 * torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = self.log_variance.exp()
        confinement = ((x - self.visible).square() / (2 * variance)).sum(-1)
        return confinement - F.softplus(F.linear(x / variance, self.weight, self.hidden)).sum(-1)


class ConvolutionalRbm(nn.Module):
    """Free energy of a convolutional RBM with probabilistic max pooling written by logsumexp."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers = F.unfold(self.filters(x), 2, stride=2).unflatten(1, (4, 4))
        pooled = torch.logsumexp(torch.cat([answers, torch.zeros_like(answers[:, :, :1])], dim=2), dim=2)
        return 0.5 * x.square().sum((1, 2, 3)) - pooled.sum((1, 2))


class GaussianMixture(nn.Module):
    """Minus the logarithm of a mixture of Gaussians with full precision matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(2 * torch.randn(4, 3))
        self.roots = nn.Parameter(torch.randn(4, 3, 3))
        self.logits = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        roots = torch.tril(self.roots, -1) + torch.diag_embed(torch.diagonal(self.roots, dim1=1, dim2=2).exp())
        delta = torch.einsum("kij,bkj->bki", roots, x.unsqueeze(1) - self.means)
        log_determinant = torch.diagonal(roots, dim1=1, dim2=2).log().sum(-1)
        return -torch.logsumexp(self.logits.log_softmax(0) + log_determinant - 0.5 * delta.square().sum(-1), dim=-1)


class TorchDistribution(nn.Module):
    """Minus log_prob of a torch.distributions mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3))
        self.means = nn.Parameter(torch.randn(3, 2))
        self.scales = nn.Parameter(0.5 + torch.rand(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=self.logits),
            torch.distributions.Independent(torch.distributions.Normal(self.means, self.scales), 1),
        )
        return -mixture.log_prob(x)


class Confined(nn.Module):
    """A network plus a quadratic that keeps samples near the origin, the network's answer bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1))
        self.log_width = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 5 * torch.tanh(self.net(x).squeeze(-1) / 5) + 0.5 * x.square().sum(-1) * torch.exp(-2 * self.log_width)


class ConvexPotential(nn.Module):
    """Input-convex network, Amos et al. (2017), arXiv:1609.07152: positive weights made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.skips = nn.ModuleList([nn.Linear(4, 6), nn.Linear(4, 1)])
        self.raw = nn.ParameterList([nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(1, 6))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.softplus(self.first(x))
        for skip, raw in zip(self.skips, self.raw, strict=True):
            h = F.softplus(F.linear(h, F.softplus(raw) / raw.shape[1]) + skip(x))
        return h.squeeze(-1) + 0.05 * x.square().sum(-1)


class LabelledEnergy(nn.Module):
    """E(x, label): the label's embedding is joined to the image's features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.SiLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.SiLU(), nn.Flatten()
        )
        self.embed = nn.Embedding(10, 6)
        self.join = nn.Bilinear(24, 6, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.head(F.silu(self.join(self.features(x), self.embed(label)))).squeeze(1)


class TimeConditioned(nn.Module):
    """E(x, time) of a diffusion: sinusoidal embedding of time, shifted and scaled group norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 12))
        self.stem, self.norm, self.conv = nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.Conv2d(6, 4, 3, 2, 1)
        self.out = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        angle = 100 * time * torch.exp(-math.log(1000) * torch.arange(4, device=x.device, dtype=x.dtype) / 3)
        scale, shift = self.embed(torch.cat([angle.sin(), angle.cos()], -1))[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm(self.stem(x)) * (1 + scale) + shift)
        h = F.interpolate(self.out(F.silu(self.conv(h))), size=x.shape[-2:], mode="nearest")
        # the energy whose gradient resembles a noise predictor, Salimans and Ho (2021)
        return 0.5 * (x - h).square().sum((1, 2, 3)) / (0.05 + time.squeeze(1))


class Molecule(nn.Module):
    """Energy of positions [N, 3]: radial basis of pairwise distances, a smooth cutoff, messages, a sum."""

    def __init__(self, atoms: int = 5) -> None:
        super().__init__()
        rows, columns = torch.triu_indices(atoms, atoms, 1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.register_buffer("centres", torch.linspace(0.5, 3.0, 6))
        self.kinds = nn.Embedding(3, 4)
        self.filter = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 4))
        self.update = nn.Linear(4, 4)
        self.readout = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 1))

    def forward(self, x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        distance = (x[:, self.rows] - x[:, self.columns]).norm(dim=-1)  # [B, pairs]
        cutoff = torch.where(
            distance < 4.0, 0.5 * (torch.cos(math.pi * distance / 4.0) + 1), torch.zeros_like(distance)
        )
        weight = self.filter(torch.exp(-2 * (distance[..., None] - self.centres).square())) * cutoff[..., None]
        atoms = self.kinds(kind)
        for _ in range(2):
            messages = torch.zeros_like(atoms)
            messages = messages.index_add(1, self.rows, atoms[:, self.columns] * weight)
            messages = messages.index_add(1, self.columns, atoms[:, self.rows] * weight)
            atoms = atoms + torch.tanh(self.update(messages))
        repulsion = (0.1 / (distance.square() + 0.05)).sum(1)
        return self.readout(atoms).sum((1, 2)) + repulsion


class DenseMolecule(nn.Module):
    """Pairwise energy through cdist with the diagonal masked, and a mean-free confinement."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("pairs", 1 - torch.eye(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(x, x) + torch.eye(x.shape[1], dtype=x.dtype)
        energy = (self.net(distance.unsqueeze(-1)).squeeze(-1) * self.pairs).sum((1, 2)) / 2
        return energy + 0.5 * (x - x.mean(1, keepdim=True)).square().sum((1, 2))


class Hopfield(nn.Module):
    """Modern continuous Hopfield network, Ramsauer et al. (2021), arXiv:2008.02217."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -torch.logsumexp(2.0 * x @ self.patterns.T, dim=-1) / 2.0 + 0.5 * x.square().sum(-1)


class VisionTransformer(nn.Module):
    """Patches, a class token, encoder layers; the class token's answer is the energy."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 1))
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.place
        return self.head(self.body(h)[:, 0]).squeeze(-1)


class Flow(nn.Module):
    """Minus the log-likelihood of affine couplings (RealNVP, arXiv:1605.08803) after a logit."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.logit(0.05 + 0.9 * x)
        log_determinant = -(F.logsigmoid(h) + F.logsigmoid(-h)).sum(-1)
        for net in self.nets:
            left, right = h.split(2, dim=-1)
            log_scale, shift = net(left).chunk(2, dim=-1)
            log_scale = torch.tanh(log_scale)
            h = torch.cat([right * log_scale.exp() + shift, left], dim=-1)
            log_determinant = log_determinant + log_scale.sum(-1)
        return 0.5 * h.square().sum(-1) - log_determinant


class FillsBufferOnFirstUse(nn.Module):
    """A table of frequencies made when the first batch comes and kept afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 1)
        self.table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None or self.table.dtype != x.dtype:
            self.table = torch.linspace(0.5, 2.0, x.shape[1], dtype=x.dtype)
        angle = x * self.table
        return self.net(torch.cat([angle.sin(), angle.cos()], dim=1)).tanh().squeeze(1) + x.square().sum(1)


LABEL = {"label": CondSpec((), "int64", 0, 5)}


CASES: dict[str, Case] = {
    "igebm": Case(seeded(Igebm), (3, 16, 16)),
    "igebm_conditional": Case(seeded(ConditionalIgebm), (3, 8, 8), LABEL),
    "jem_wide_resnet": Case(seeded(WideResNet), (3, 16, 16), energy="logsumexp"),
    "jem_wide_resnet_label": Case(seeded(JointWideResNet), (3, 8, 8), LABEL),
    "attention_blur_pool": Case(seeded(AttentionNet), (3, 12, 12)),
    "behavioural_cloning_image": Case(
        seeded(SoftArgmaxPolicy), (2,), {"obs": CondSpec((3, 9, 9), low=0.0, high=1.0)}, wrt="action", range=(-1.0, 1.0)
    ),
    "behavioural_cloning_state": Case(
        seeded(VectorPolicy), (2,), {"state": CondSpec((4,)), "goal": CondSpec((3,))}, wrt="action", range=(-1.0, 1.0)
    ),
    "sequence_transformer": Case(seeded(CausalTransformer), (6, 3)),
    "sequence_gru": Case(seeded(RecurrentSequence), (6, 3), {"hidden": CondSpec((6,), "bool")}),
    "reconstruction": Case(seeded(Autoencoder), (1, 8, 8)),
    "reconstruction_unet": Case(seeded(UNetReconstruction), (1, 8, 8)),
    "score_norm": Case(seeded(ScoreNorm), (4,)),
    "score_norm_conv": Case(seeded(lambda: ScoreNorm(convolutional=True)), (1, 7, 7)),
    "fourier_features": Case(seeded(FourierFeatures), (2,)),
    "product_of_experts": Case(seeded(ProductOfExperts), (1, 7, 7)),
    "sum_of_networks": Case(seeded(SumOfNetworks), (4,)),
    "gaussian_rbm": Case(seeded(GaussianRbm), (6,)),
    "convolutional_rbm": Case(seeded(ConvolutionalRbm), (1, 8, 8)),
    "gaussian_mixture": Case(seeded(GaussianMixture), (3,)),
    "torch_distribution": Case(seeded(TorchDistribution), (2,)),
    "confined": Case(seeded(Confined), (4,)),
    "negative_confined": Case(seeded(Confined), (4,), energy="negative"),
    "convex_potential": Case(seeded(ConvexPotential), (4,)),
    "label": Case(seeded(LabelledEnergy), (1, 8, 8), {"label": CondSpec((), "int64", 0, 10)}),
    "diffusion_time": Case(seeded(TimeConditioned), (2, 6, 6), {"time": CondSpec((1,), low=0.0, high=1.0)}),
    "molecule": Case(seeded(Molecule), (5, 3), {"kind": CondSpec((5,), "int64", 0, 3)}),
    "molecule_dense": Case(seeded(DenseMolecule), (4, 3)),
    "hopfield": Case(seeded(Hopfield), (4,)),
    "vision_transformer": Case(seeded(VisionTransformer), (3, 8, 8)),
    "flow": Case(seeded(Flow), (4,), range=(0.02, 0.98)),
    "buffer_filled_on_first_use": Case(seeded(FillsBufferOnFirstUse), (4,)),
}
