"""What a comparison compares: engines of bundles, and score graphs that were made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime import load
from ..runtime.artifact_engine import engine_of
from ..runtime.backends import BACKENDS, LOADABLE, backend_of, open_engine
from ..runtime.bundle import Bundle
from ..runtime.choice import choose
from ..runtime.ebm import Ebm
from ..runtime.engine import Engine
from ..runtime.errors import EbmExportError, LoadError, UsageError
from ..runtime.file_hash import sha256_of
from ..runtime.manifest import Artifact
from ..runtime.precision_schedule import check_steps, is_schedule, parse_precision_schedule
from ..runtime.runnable import why_not
from ..runtime.split_engine import SplitEngine
from .external_data import external_data
from .external_graph import backend_for, check_graph, features_of
from .plain_score import PlainScore

__all__ = [
    "Candidate",
    "NotRun",
    "bundle_candidates",
    "external_candidate",
    "precision_at",
    "precisions_in",
    "reference_of",
]

REFERENCE_PRECISION = "fp32"

_WITH_PROLOGUES = ("onnx", "onnxruntime", "openvino")
"""Targets whose prologue in FP32 makes the features that a graph was quantized for, where it was made from a split energy: any will do."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a model.

    Attributes:
        name: unique in a comparison, such as "int8 openvino".
        bundle: the model, its sampler settings and its conditioning inputs.
        backend: the library that runs it.
        precision: as in the manifest, or a schedule over the steps ("int8:0-200,bf16:200-256"); "external" for a
            graph that is not the bundle's.
        file: the engine's file; the first of a schedule's.
        fingerprint: sha256 of every file that decides what is drawn.
        bytes: size of these files.
        external: True for a graph that was made elsewhere.
        note: what a reader should know about it, such as that its engine was never verified.
        prologue: what makes the features of an external graph that was made from the steps' part of a split energy; it is the
            bundle's own.
        keeps: the conditioning inputs that such a graph reads itself.
        plain: True for an external graph of dE/dx itself, without the input grad_scale.
    """

    name: str
    bundle: Bundle
    backend: str
    precision: str
    file: Path
    fingerprint: tuple[str, ...]
    bytes: int
    external: bool = False
    note: str = ""
    prologue: Artifact | None = None
    keeps: tuple[str, ...] = ()
    plain: bool = False

    def open(self, threads: int | None = None) -> Ebm:
        """Loads it as the runtime does; the caller closes it.

        Args:
            threads: threads that one engine call may use.
        """
        if self.external:
            return load(self.bundle.path, engine=self.engine(threads))
        return load(self.bundle.path, backend=self.backend, precision=self.precision, threads=threads)

    def engine(self, threads: int | None = None, precision: str | None = None) -> Engine:
        """The engine alone, not opened yet.

        Args:
            threads: threads that one engine call may use.
            precision: which of a schedule's precisions; the candidate's own if left out.
        """
        if self.external:
            return self._external(threads)
        artifact, picked, *_ = choose(self.bundle, self.backend, precision or self.precision)
        return engine_of(self.bundle, artifact, picked, threads=threads)

    def _external(self, threads: int | None) -> Engine:
        scales = self.bundle.model.scales
        engine = open_engine(self.backend, self.file, precision=self.precision, threads=threads, scales=scales)
        if self.plain:
            engine = PlainScore(engine)
        if self.prologue is None:
            return engine
        file = self.bundle.file_of(self.prologue)
        backend, options = backend_of(self.prologue.target), dict(self.prologue.options)
        first = open_engine(backend, file, precision=self.prologue.precision, threads=threads, options=options)
        return SplitEngine(first, engine, self.prologue.reads, self.keeps)


@dataclass(frozen=True)
class NotRun:
    """An engine that was asked for, or that a bundle holds, and that cannot run here."""

    name: str
    reason: str


def reference_of(bundle: Bundle, *, named: bool = False) -> Candidate:
    """Returns the FP32 engine that a bundle's candidates are compared with: the one `load` would pick.

    Args:
        bundle: the bundle.
        named: whether the name begins with the bundle's, as with several bundles.

    Raises:
        LoadError: the bundle has no FP32 engine that is verified and runs here.
    """
    try:
        artifact, backend, *_ = choose(bundle, None, REFERENCE_PRECISION)
    except LoadError as error:
        if (cause := _why_unverified(bundle)) is not None:
            raise LoadError(
                f"{bundle.path}: a comparison needs a verified FP32 engine as its reference: {cause}"
            ) from error
        text = f"{bundle.path}: a comparison needs an FP32 engine as its reference, and none runs here: {error}"
        if any(artifact.precision == REFERENCE_PRECISION for artifact in bundle.artifacts):  # else that says what to do
            text += "; export the model again with a target of this device"
        raise LoadError(text) from error
    return _from_bundle(bundle, backend, artifact.precision, _prefix(bundle) if named else "")


def _why_unverified(bundle: Bundle) -> str | None:
    """Which FP32 engine would do if it were verified, and how it becomes so; None where none runs here at all."""
    for artifact in bundle.artifacts:
        if artifact.role == "score" and artifact.precision == REFERENCE_PRECISION and why_not(artifact) is None:
            cure = "run ebm-run verify first" if bundle.has_golden else "export the model again without --no-verify"
            return f"{artifact.path} is not ({artifact.status}): {cure}"
    return None


def bundle_candidates(
    bundles: Sequence[Bundle],
    *,
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
) -> tuple[list[Candidate], list[NotRun]]:
    """Goes through every backend and precision of some bundles.

    Args:
        bundles: the bundles; with more than one, the names begin with the bundle's.
        backends: only these; every one that the bundle has files for if empty. One that is named twice counts once, and so below.
        precisions: only these, in this order; every one that the bundle holds if empty. A schedule over the steps is
            one entry.

    Returns:
        The candidates (FP32 engines among them), and what cannot run here with the reason.

    Raises:
        UsageError: there is no such backend.
        LoadError: nothing runs at a precision that was asked for.
    """
    for backend in backends:
        if backend not in BACKENDS:
            raise UsageError(f"--backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    found: list[Candidate] = []
    not_run: list[NotRun] = []
    answered: set[str] = set()  # by name: the precision of what is found may be a schedule that the bundle has for it
    for bundle in bundles:
        prefix = _prefix(bundle) if len(bundles) > 1 else ""
        scores = [artifact for artifact in bundle.artifacts if artifact.role == "score"]
        held = dict.fromkeys(artifact.precision for artifact in scores)
        for precision in dict.fromkeys(precisions) or held:
            for backend in dict.fromkeys(backends) or BACKENDS:
                names = precisions_in(precision)
                with_file = {artifact.precision for artifact in scores if artifact.target in LOADABLE[backend]}
                if not backends and not with_file.issuperset(names):
                    continue  # the bundle was not exported for this backend
                try:
                    found.append(_from_bundle(bundle, backend, precision, prefix))
                    answered.add(precision)
                except EbmExportError as error:
                    not_run.append(NotRun(f"{prefix}{precision} {backend}", str(error)))
    for precision in precisions:
        if precision not in answered:
            reasons = "; ".join(dict.fromkeys(entry.reason for entry in not_run if f"{precision} " in entry.name))
            holds = ", ".join(dict.fromkeys(entry.precision for bundle in bundles for entry in bundle.artifacts))
            raise LoadError(f"--precision {precision}: nothing here runs it: {reasons or f'the bundles hold {holds}'}")
    return found, not_run


def external_candidate(text: str, bundle: Bundle) -> Candidate:
    """Reads NAME=FILE or NAME=BACKEND:FILE, a score graph that was made elsewhere.

    Any tool that takes the bundle's ONNX graph and writes one with the same inputs and outputs will do: NNCF, NVIDIA
    ModelOpt, onnxruntime's quantizer. So will a graph from elsewhere that gives energy and dE/dx by these names, without
    grad_scale. An .onnx file runs on onnxruntime unless BACKEND says openvino, an .xml file on
    OpenVINO.

    Args:
        text: as it is given on the command line.
        bundle: the model that the graph is of; gives the sampler's settings and the conditioning inputs.

    Raises:
        UsageError: the text has another form, or the graph has other inputs or outputs than the bundle's.
        LoadError: there is no such file, or the backend cannot read it.
        MissingBackend: the backend is not installed.
    """
    name, equals, place = text.partition("=")
    if not equals or not name.strip() or not place:
        raise UsageError(f"--candidate: expected NAME=FILE.onnx or NAME=openvino:FILE.onnx, got {text!r}")
    head, colon, rest = place.partition(":")
    backend, path = (head, Path(rest)) if colon and head in BACKENDS else (None, Path(place))
    backend = backend_for(path, backend)
    if not path.is_file():
        raise LoadError(f"--candidate {name}: there is no file {path}")
    weights = _weights_beside(path)  # first, so that no library reads what must not be read
    prologue = _prologue_of(bundle)
    features = {}
    if prologue is not None:
        features = features_of(bundle.file_of(prologue), backend_of(prologue.target), prologue.reads)
    inputs = check_graph(path, backend, bundle.model, features)
    takes_features = any(port is not None and name in inputs for name, port in features.items())
    if not takes_features:
        prologue = None
    files, own = [path, *weights], [] if prologue is None else [prologue]
    plain = "grad_scale" not in inputs
    return Candidate(
        name=name.strip(),
        bundle=bundle,
        backend=backend,
        precision="external",
        file=path,
        fingerprint=(*map(sha256_of, files), *_digests(own)),
        bytes=sum(file.stat().st_size for file in [*files, *_files(bundle, own)]),
        external=True,
        note=f"a score graph made elsewhere{', of dE/dx without grad_scale' if plain else ''}: {path.name}",
        prologue=prologue,
        keeps=tuple(spec.name for spec in bundle.model.cond if takes_features and spec.name in inputs),
        plain=plain,
    )


def _prologue_of(bundle: Bundle) -> Artifact | None:
    """The bundle's prologue in FP32, as far as it has one that runs here."""
    found = {a.target: a for a in bundle.artifacts if a.role == "prologue" and a.precision == REFERENCE_PRECISION}
    return next(
        (found[target] for target in _WITH_PROLOGUES if target in found and why_not(found[target]) is None), None
    )


def precisions_in(precision: str) -> tuple[str, ...]:
    """The precisions that a schedule goes through: ("int8", "bf16") for "int8:0-200,bf16:200-256".

    Raises:
        UsageError: it is neither a name nor a schedule.
    """
    if not is_schedule(precision):
        return (precision,)
    return tuple(dict.fromkeys(span.precision for span in parse_precision_schedule(precision)))


def precision_at(precision: str, step: int) -> str:
    """The precision that a schedule computes in after so many steps; the last one goes on to the end."""
    if not is_schedule(precision):
        return precision
    spans = parse_precision_schedule(precision)
    return next((span.precision for span in spans if span.stop is not None and step < span.stop), spans[-1].precision)


def _prefix(bundle: Bundle) -> str:
    return f"{bundle.path.stem}: "


def _weights_beside(path: Path) -> list[Path]:
    """The files of weights beside a graph: OpenVINO's .bin, ONNX's external data."""
    if path.suffix == ".onnx":
        return external_data(path)
    return [file for file in [path.with_suffix(".bin")] if file.is_file()]


def _digests(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    return tuple(digest for artifact in artifacts for digest in (artifact.sha256, *sorted(artifact.files.values())))


def _files(bundle: Bundle, artifacts: Sequence[Artifact]) -> list[Path]:
    return [bundle.path / name for artifact in artifacts for name in (artifact.path, *artifact.files)]


def _from_bundle(bundle: Bundle, backend: str, precision: str, prefix: str) -> Candidate:
    said = precision
    if not is_schedule(precision):  # the export may have found that this precision is best left before the end
        precision = choose(bundle, backend, precision)[0].schedule or precision
    if is_schedule(precision):
        check_steps(parse_precision_schedule(precision), bundle.sampler.steps)  # which the chains would find too late
    artifacts = [choose(bundle, backend, name)[0] for name in precisions_in(precision)]
    artifacts += [prologue for artifact in artifacts if (prologue := bundle.prologue_of(artifact)) is not None]
    notes = [
        f"{artifact.path} is not verified ({artifact.status})"
        for artifact in artifacts
        if artifact.status != "verified"
    ]
    return Candidate(
        name=f"{prefix}{said} {backend}",
        bundle=bundle,
        backend=backend,
        precision=precision,
        file=bundle.path / artifacts[0].path,
        fingerprint=_digests(artifacts),
        bytes=sum(file.stat().st_size for file in _files(bundle, artifacts)),
        note="; ".join(filter(None, [*notes, *(artifact.note for artifact in artifacts)])),
    )
