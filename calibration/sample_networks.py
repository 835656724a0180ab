"""What samples are compared by, and what tells which class each is of: networks beside the engine that is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import LoadError, UsageError
from ..runtime.file_hash import sha256_of
from .external_data import external_data
from .metrics.features import OnnxFeatures, score_graph_features

__all__ = ["OwnGraph", "SampleNetworks", "check_networks", "sample_networks"]

OwnGraph = Callable[[], tuple[Path, Mapping[str, np.ndarray]]]
"""Gives the model's float32 score graph as an ONNX file, and one row of each of its inputs but x and grad_scale."""


@dataclass(frozen=True)
class SampleNetworks:
    """Networks that look at samples; both are None where samples are compared by x itself and modes are clusters.

    Attributes:
        features: from [B, *S] float32 to [B, D].
        classify: from [B, *S] float32 to the class of each sample, [B] whole numbers from 0.
        identity: what they are, for what is kept of their answers.
        said: what samples are compared by, for a reader.
    """

    features: Callable[[np.ndarray], np.ndarray] | None = None
    classify: Callable[[np.ndarray], np.ndarray] | None = None
    identity: tuple[str, ...] = ()
    said: str = "x itself"


def check_networks(features: str, classes: str | Path | None) -> None:
    """Refuses files of --features and --classes that are not there, so that it is said before any work.

    Raises:
        LoadError: there is no such file.
    """
    if features not in ("pixels", "model") and not Path(features).is_file():  # perhaps a misspelt one of the two words
        raise LoadError(f"--features: there is no feature network {features}; expected pixels, model or FILE.onnx")
    if classes is not None and not Path(classes).is_file():
        raise LoadError(f"--classes: there is no classifier {classes}; expected FILE.onnx")


def sample_networks(
    features: str,
    classes: str | Path | None,
    own: OwnGraph,
    shape: tuple[int, ...],
    *,
    threads: int | None = None,
) -> SampleNetworks:
    """Loads the networks that --features and --classes name. Each is asked once at zero, so that an error comes before the sampling.

    Args:
        features: "pixels" for x itself, "model" for the score graph's own features, or an ONNX file from x to features.
        classes: an ONNX file from x to one number for each of K classes, [B, K], logits or probabilities: a sample's mode is the
            class of the largest. None finds modes by clustering.
        own: asked for "model" alone.
        shape: *S of a sample.
        threads: threads that one call may use.

    Raises:
        LoadError: there is no such file, or it is no network that onnxruntime can run.
        UsageError: a network takes no such samples, or does not answer with what is wanted.
    """
    check_networks(features, classes)
    network = _features(features, own, shape, threads)
    classify = None if classes is None else _classifier(Path(classes), shape, threads)
    files = [Path(features)] if features not in ("pixels", "model") else []
    files += [] if classes is None else [Path(classes)]
    hashes = [sha256_of(part) for file in files for part in (file, *external_data(file))]
    return SampleNetworks(network, classify, (features, str(classes), *hashes), _said(features, classes))


def _said(features: str, classes: str | Path | None) -> str:
    named = {"pixels": "x itself", "model": "the score graph's own features"}
    said = named.get(features, f"the features of {Path(features).name}")
    return said if classes is None else f"{said}, their modes being the classes of {Path(classes).name}"


def _features(name: str, own: OwnGraph, shape: tuple[int, ...], threads: int | None) -> OnnxFeatures | None:
    if name == "pixels":
        return None
    if name == "model":
        graph, rows = own()
        network = score_graph_features(graph, cond=rows, threads=threads)
    else:
        network = OnnxFeatures(name, threads=threads)
    network(np.zeros((2, *shape), np.float32))
    return network


def _classifier(path: Path, shape: tuple[int, ...], threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    network = OnnxFeatures(path, threads=threads, called="the classifier")
    if network(np.zeros((2, *shape), np.float32)).shape[1] < 2:
        raise UsageError(
            f"--classes: {path} answers with one number for a sample; expected one for each of two classes or more"
        )

    def classify(x: np.ndarray) -> np.ndarray:
        return np.asarray(network(x).argmax(axis=1))

    return classify
