"""Energies of published packages: torchebm, ebmkit (imported as ``ebm``) and a vision transformer of transformers.

Left out because they break the contract of an energy: torchebm's InteractionModel (the energy of a sample depends on
the other samples of the batch) and ebmkit's ContinuousNormalizingFlow (every call draws new probe vectors).
"""

from __future__ import annotations

import ebm
import torch
from ebm import nets
from torch import nn
from torchebm import core, models
from transformers import ViTConfig, ViTModel

from . import Case, CondSpec
from .op_energy import randomise, seeded

__all__ = ["BRANCHING", "CASES"]


class ConditionByName(nn.Module):
    """Passes the label by keyword: in the wrapped signature the time stands between x and the label."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.model(x, y=y).squeeze(-1)


class SumOverFeatures(nn.Module):
    """Reads a vector field as energy: half its squared distance to x."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x - self.field(x, t)).square().flatten(1).sum(1)


class JointEnergy(nn.Module):
    """The joint energy of a LatentEBM; the latent is refined, the observation given."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = LinearDecoder()
        self.latent = ebm.LatentEBM(self.decoder, latent_dim=2)

    def forward(self, obs: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.latent.joint_energy(obs, z)


class LinearDecoder(nn.Module):
    """||obs - f(z)||^2 / 2 for a small network f."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, obs: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return 0.5 * (obs - self.net(z)).square().sum(1)


class FixedLabel(nn.Module):
    """A JEM classifier with the label as condition."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = ebm.ClassifierEnergy(conv_classifier())

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.classifier.conditional(x, label)


class VitEnergy(nn.Module):
    """A ViT with random weights, its pooled output through a linear layer."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=12,
            image_size=8,
            patch_size=4,
            num_channels=3,
            pooler_output_size=8,
            attn_implementation=attention,
        )
        self.vit = ViTModel(config)
        self.head = nn.Linear(8, 1)
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.vit(pixel_values=x).pooler_output).squeeze(-1)


def conv_classifier(spectral_norm: bool = False) -> nn.Module:
    return nets.ConvClassifier(5, in_channels=1, image_size=8, channels=(3, 4), spectral_norm=spectral_norm)


def mlp(dim: int = 4) -> nn.Module:
    return nets.MLPEnergy(dim, hidden=(6, 6))


def mixture() -> nn.Module:
    return nets.GaussianMixtureEnergy(torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.5]]), [0.5, 0.3, 1.0], std=0.8)


def gaussian() -> nn.Module:
    root = torch.randn(3, 3)
    return core.GaussianModel(torch.randn(3), root @ root.T + torch.eye(3))


def field(**options: object) -> nn.Module:
    return randomise(models.TimeConditionedMLP(in_dim=3, hidden_dim=8, depth=2, **options))


def transformer(**options: object) -> nn.Module:
    return randomise(
        models.DiT(input_size=4, in_channels=2, patch_size=2, embed_dim=8, depth=2, num_heads=2, **options)
    )


def guided() -> nn.Module:
    conditional = field(out_dim=1, num_classes=4)
    return ConditionByName(models.ClassifierFreeGuidance(conditional, 1.5, null_condition=4))


IMAGE = (1, 8, 8)
SIGMA = {"sigma": CondSpec((), low=0.1, high=2.0)}
TIME = {"t": CondSpec((), low=0.0, high=1.0)}


CASES: dict[str, Case] = {
    # torchebm, analytic
    "torchebm_double_well": Case(seeded(lambda: core.DoubleWellModel(2.0, 1.2)), (3,)),
    "torchebm_gaussian": Case(seeded(gaussian), (3,)),
    "torchebm_harmonic": Case(seeded(lambda: core.HarmonicModel(1.7)), (3,)),
    "torchebm_rosenbrock": Case(seeded(lambda: core.RosenbrockModel(1.0, 10.0)), (4,)),
    "torchebm_ackley": Case(seeded(core.AckleyModel), (3,)),
    "torchebm_rastrigin": Case(seeded(core.RastriginModel), (3,)),
    "torchebm_himmelblau": Case(seeded(core.HimmelblauModel), (2,)),
    "torchebm_booth": Case(seeded(core.BoothModel), (2,)),
    "torchebm_styblinski_tang": Case(seeded(core.StyblinskiTangModel), (3,)),
    # torchebm, networks
    "torchebm_eqm_dot": Case(seeded(lambda: models.EqMEnergy(field(), "dot")), (3,)),
    "torchebm_eqm_l2": Case(seeded(lambda: models.EqMEnergy(field(conditioning="concat"), "l2")), (3,)),
    "torchebm_eqm_unconditional": Case(
        seeded(lambda: models.EqMEnergy(field(conditioning="concat", cond_dim=0), "mean")), (3,)
    ),
    "torchebm_eqm_dit": Case(seeded(lambda: models.EqMEnergy(transformer(), "dot")), (2, 4, 4)),
    "torchebm_eqm_dit_wide_head": Case(
        seeded(lambda: models.EqMEnergy(transformer(head_dim=12, head_depth=1, pos_embed="learnable"), "l2")), (2, 4, 4)
    ),
    "torchebm_dit_time": Case(seeded(lambda: SumOverFeatures(transformer())), (2, 4, 4), TIME),
    "torchebm_mlp_time": Case(seeded(lambda: SumOverFeatures(field())), (3,), TIME),
    "torchebm_guidance": Case(seeded(guided), (3,), {"y": CondSpec((), "int64", 0, 4)}),
    # ebmkit, analytic
    "ebmkit_funnel": Case(seeded(lambda: nets.FunnelEnergy(4)), (4,)),
    "ebmkit_gaussian_mixture": Case(seeded(mixture), (2,)),
    "ebmkit_banana": Case(seeded(lambda: nets.BananaEnergy(0.5, (1.0, 0.7))), (2,)),
    "ebmkit_ising_relaxed": Case(seeded(lambda: nets.IsingEnergy(0.4, learn_coupling=True)), (4, 5)),
    "ebmkit_potts_relaxed": Case(seeded(nets.PottsEnergy), (3, 4, 3)),
    "ebmkit_rbm_relaxed": Case(seeded(lambda: randomise(nets.RBM(6, 4))), (6,), wrt="v"),
    # ebmkit, networks
    "ebmkit_mlp": Case(seeded(mlp), (4,)),
    "ebmkit_mlp_spectral": Case(seeded(lambda: nets.MLPEnergy(4, (6, 6), spectral_norm=True)), (4,)),
    "ebmkit_conv": Case(seeded(lambda: nets.ConvEnergy(1, (3, 4, 4))), IMAGE),
    "ebmkit_conv_plain": Case(seeded(lambda: nets.ConvEnergy(1, (3, 4), spectral_norm=False)), (1, 7, 9)),
    "ebmkit_resnet": Case(seeded(lambda: randomise(nets.ResNetEnergy(1, (3, 4, 4)))), IMAGE),
    "ebmkit_resnet_spectral": Case(seeded(lambda: nets.ResNetEnergy(1, (3, 4), spectral_norm=True)), IMAGE),
    "ebmkit_noise_mlp": Case(seeded(lambda: nets.NoiseConditionalMLPEnergy(4, (6, 6), embed_dim=6)), (4,), SIGMA),
    "ebmkit_noise_conv": Case(
        seeded(lambda: randomise(nets.NoiseConditionalConvEnergy(1, (3, 4), embed_dim=6, spectral_norm=True))),
        IMAGE,
        SIGMA,
    ),
    "ebmkit_coupling_flow": Case(seeded(lambda: nets.AffineCouplingFlow(4, n_layers=3, hidden=6)), (4,)),
    "ebmkit_classifier": Case(seeded(conv_classifier), IMAGE, energy="logsumexp"),
    "ebmkit_classifier_energy": Case(seeded(lambda: ebm.ClassifierEnergy(conv_classifier(True))), IMAGE),
    "ebmkit_classifier_fixed": Case(seeded(lambda: ebm.ClassifierEnergy(conv_classifier()).condition(3)), IMAGE),
    "ebmkit_classifier_label": Case(seeded(FixedLabel), IMAGE, {"label": CondSpec((), "int64", 0, 5)}),
    "ebmkit_guided": Case(seeded(lambda: ebm.ClassifierEnergy(conv_classifier()).guide(2, 1.5)), IMAGE),
    "ebmkit_energy_model": Case(
        seeded(lambda: ebm.EnergyModel(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)))), (4,)
    ),
    "ebmkit_latent_posterior": Case(seeded(JointEnergy), (2,), {"obs": CondSpec((4,))}, wrt="z"),
    # ebmkit, compositions
    "ebmkit_sum": Case(
        seeded(lambda: ebm.SumEnergy(mlp(2), mixture(), nets.BananaEnergy(), weights=[0.7, 1.3, 0.4])), (2,)
    ),
    "ebmkit_mixture": Case(seeded(lambda: ebm.MixtureEnergy(mlp(2), mixture(), weights=[0.3, 0.7])), (2,)),
    "ebmkit_ensemble": Case(seeded(lambda: ebm.EnsembleEnergy(mlp(), mlp(), mlp())), (4,)),
    "ebmkit_tempered": Case(seeded(lambda: ebm.TemperedEnergy(mlp(), 2.5)), (4,)),
    "ebmkit_nested": Case(
        seeded(
            lambda: ebm.TemperedEnergy(
                ebm.SumEnergy(ebm.MixtureEnergy(mixture(), nets.BananaEnergy()), nets.FunnelEnergy(2)), 1.5
            )
        ),
        (2,),
    ),
    # transformers
    "transformers_vit_sdpa": Case(seeded(lambda: VitEnergy("sdpa")), (3, 8, 8)),
    "transformers_vit_eager": Case(seeded(lambda: VitEnergy("eager")), (3, 8, 8)),
}

# Sound energies whose forward asks in Python what the numbers of x are: no tracer can follow both answers, so export
# has to refuse them with a message that points at the line.
BRANCHING: dict[str, Case] = {
    "ebmkit_spline_flow": Case(
        seeded(lambda: randomise(nets.NeuralSplineCouplingFlow(4, n_layers=2, hidden=6, num_bins=4))), (4,)
    ),
}
