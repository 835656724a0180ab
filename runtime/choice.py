"""Which of a bundle's artifacts to run on this machine."""

from __future__ import annotations

from typing import NamedTuple

from .arguments import check_choice
from .backends import BACKENDS, LOADABLE, available
from .bundle import Bundle
from .errors import LoadError, MissingBackend
from .manifest import VERIFIED, Artifact
from .runnable import why_not

__all__ = ["Choice", "choose"]

_DEFAULT_PRECISION = "fp32"


class Choice(NamedTuple):
    """An artifact, the backend to run it, and one line that says why."""

    artifact: Artifact
    backend: str
    reason: str


def choose(bundle: Bundle, backend: str | None = None, precision: str | None = None) -> Choice:
    """Picks an artifact and a backend.

    1. A precision that is left out is fp32 if an artifact of it can be picked, else that of the first that can.
    2. A backend that is left out is the first of `BACKENDS` that is usable here and has a verified artifact.
    3. A backend that is given is taken even where its artifact is not verified; the reason then says so.

    Args:
        bundle: the bundle.
        backend: one of `BACKENDS`, or None.
        precision: as in the manifest, or None.

    Raises:
        UsageError: there is no such backend.
        MissingBackend: the backend given cannot be used here.
        LoadError: no artifact fits; the message goes through all of them.
    """
    if backend is not None:
        check_choice("backend", backend, BACKENDS)
        if (missing := available(backend)) is not None:
            raise MissingBackend(f"backend {backend!r} cannot be used here: {missing}")
    fitting, passed_over = _candidates(bundle, backend, precision)
    if not fitting:
        raise LoadError(_nothing_fits(bundle, backend, precision, passed_over))
    artifact, picked = next((pair for pair in fitting if pair[0].precision == _DEFAULT_PRECISION), fitting[0])
    why = []
    if backend is None:
        why.append(f"backend left out: the first of {', '.join(BACKENDS)} with a verified artifact that runs here")
    if precision is None:
        default = artifact.precision == _DEFAULT_PRECISION
        why.append(f"precision left out: {'the default' if default else f'no {_DEFAULT_PRECISION} fits'}")
    if artifact.status != VERIFIED:
        why.append(f"NOT verified ({artifact.status}): ebm-run verify compares it with PyTorch's answers")
    why.extend(passed_over)
    text = f"{picked} {artifact.precision} ({artifact.path}): {'; '.join(why) or 'as asked for'}"
    return Choice(artifact, picked, text)


def _candidates(
    bundle: Bundle, backend: str | None, precision: str | None
) -> tuple[list[tuple[Artifact, str]], list[str]]:
    """Returns what can be picked, best first, and for each artifact that was considered and cannot a line why."""
    fitting, passed_over = [], []
    for name in BACKENDS if backend is None else (backend,):
        for target in LOADABLE[name]:
            for artifact in bundle.artifacts:
                if artifact.role != "score" or artifact.target != target:
                    continue
                if precision is not None and artifact.precision != precision:
                    continue
                cannot = why_not(artifact)
                if cannot is not None:
                    passed_over.append(f"not {artifact.path} on {name}: {cannot}")
                elif backend is None and artifact.status != VERIFIED:
                    passed_over.append(f"not {artifact.path} on {name}: {artifact.status}")
                else:
                    fitting.append((artifact, name))
    return fitting, passed_over


def _nothing_fits(bundle: Bundle, backend: str | None, precision: str | None, passed_over: list[str]) -> str:
    wish = " ".join(word for word in (precision, f"for backend {backend!r}" if backend else None) if word)
    holds = ", ".join(f"{artifact.target} {artifact.precision}" for artifact in bundle.artifacts) or "no artifact"
    text = f"the bundle {bundle.path} has nothing {wish or 'that can run here'}; it holds {holds}"
    return f"{text}; {'; '.join(passed_over)}" if passed_over else text
