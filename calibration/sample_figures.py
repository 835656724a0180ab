"""What the gate does not judge by, of samples that are there already: precision, recall, and the Frechet distance of all features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .chain_plan import ChainPlan
from .gate_metrics import Pools
from .metrics.frechet import frechet_distance
from .metrics.manifold import manifold_quality
from .sample_set import SampleSet

__all__ = ["SampleFigures", "sample_figures"]

_NEIGHBOURS = 5
"""k, as Naeem et al. (ICML 2020) use."""

_WIDEST = 8192
"""Features up to which a covariance is fitted: beyond that two of a few thousand samples take more memory than they tell."""

_WIDEST_PARTED = 16384
"""Numbers up to which principal components are taken again, after the gate did: of wider ones that costs gigabytes and minutes."""


@dataclass(frozen=True)
class SampleFigures:
    """Samples beside the reference's; nothing passes or fails by them.

    Read each beside FP32's own row, where both sets are FP32's: that is what the seed alone does.

    Attributes:
        chains: samples in each of the two sets.
        neighbours: k, which the balls of the four shares reach.
        precision: share of the samples inside some ball of the reference's; see `ManifoldQuality`.
        recall: share of the reference's samples inside some ball of these.
        density: mean number of the reference's balls around a sample, over k.
        coverage: share of the reference's balls that hold a sample.
        frechet: Frechet distance in all features of a network that was given, each as it is; the FID where these are
            Inception's. None where samples are compared by something else, or by more than 8192 features.
        width: number of these features; None likewise.
        too_wide: how many numbers samples are compared by, where these are more than 16384 and the four shares None; else None.
    """

    chains: int
    neighbours: int
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    frechet: float | None = None
    width: int | None = None
    too_wide: int | None = None


def sample_figures(
    reference: SampleSet, candidate: SampleSet, plan: ChainPlan, temperature: float, *, network: bool, seed: int = 0
) -> SampleFigures | None:
    """Compares two sample sets by what the gate leaves out.

    The four shares are counted where the gate counts its density and coverage, among at most 32 leading components, but
    in the whole sets; not where samples are compared by more than 16384 numbers. All engines are compared at the size of the
    reference's set, since a Frechet distance falls with the number of samples.

    Args:
        reference: of FP32, N samples.
        candidate: drawn with another seed; the first N are taken.
        plan: what the gate judged by.
        temperature: of the samples, 0 for chains that come to rest; see `gate.judge`.
        network: whether the features are those of a network that was given.
        seed: of the components.

    Returns:
        The figures; None where a number of either set is not finite, or the sets have no more than k samples.
    """
    own = candidate.first(len(reference))
    chains = min(len(reference), len(own))
    if chains <= _NEIGHBOURS or not (_finite(reference) and _finite(own)):
        return None
    numbers = own.x[0].size if reference.features is None or own.features is None else own.features.shape[1]
    if numbers > _WIDEST_PARTED:
        return SampleFigures(chains, _NEIGHBOURS, None, None, None, None, too_wide=numbers)
    first, second = Pools(reference, own, plan, temperature, seed).components
    found = manifold_quality(first, second, k=_NEIGHBOURS)
    features = (reference.features, own.features) if network else (None, None)
    frechet, width = None, None
    if features[0] is not None and features[1] is not None and features[0].shape[1] <= _WIDEST:
        frechet, width = frechet_distance(features[0], features[1]), features[0].shape[1]
    return SampleFigures(
        chains, _NEIGHBOURS, found.precision, found.recall, found.density, found.coverage, frechet, width
    )


def _finite(samples: SampleSet) -> bool:
    arrays = (samples.x, samples.features)
    return all(array is None or bool(np.isfinite(array).all()) for array in arrays)
