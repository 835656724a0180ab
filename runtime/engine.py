"""What every backend gives: a batch in, energies and input gradients out."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from .device_loop import DeviceLoop
from .known_scales import NOTHING_KNOWN, KnownScales

__all__ = ["Engine", "read_only"]


class Engine(ABC):
    """A loaded, compiled score graph on one backend at one precision.

    An engine is a context manager: it opens its session on entry and frees it on exit. Names, shapes and
    dtypes are checked once by the caller (`Ebm`), not here.
    """

    backend: str
    """Name of the library that runs the graph."""

    needs_scale: bool = True
    """Whether gradients may leave the range of the engine's numbers, so that they need the running gradient scale."""

    cpu_threads: int | str | None = None
    """CPU threads of one call, among which sums are split; words where the library picks their number, None where there are none."""

    largest_batch: int | None = None
    """Most samples in one call, known once the engine is open; None where memory alone sets a limit. Any smaller number will do."""

    known_scales: KnownScales = NOTHING_KNOWN
    """What is known of the gradient scales that chains on it have."""

    @property
    def highest_scale(self) -> float | None:
        """Where the running scale of chains on it stops; None where they have none."""
        return self.known_scales.highest if self.needs_scale else None

    @property
    def gpu(self) -> str | None:
        """Model of the GPU that computes, whose kernels are others than those of another one; None where there is none."""
        return None

    @property
    def locks(self) -> tuple[threading.RLock, ...]:
        """What whoever asks the engine holds, so that threads take turns; see `turns.Turns`."""
        return (self.__dict__.setdefault("_lock", threading.RLock()),)

    @property
    def parts(self) -> tuple[Engine, ...]:
        """The engines of one library each that do the work: itself, where it is not made of others."""
        return (self,)

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Readies what stays the same along a chain, once, for any number of calls of `run`.

        Args:
            cond: the conditioning inputs by name, [B, ...]; a row that all samples share may be repeated by a stride of 0
                (`np.broadcast_to`).

        Returns:
            What `run` takes beside `x` and `grad_scale`, [B, ...], or [1, ...] where all samples share a row and the engine
            takes one. The arrays are read-only: a backend that is given such an array twice need not read it again.
        """
        return {name: read_only(array) for name, array in cond.items()}

    def ready(self, cond: Mapping[str, np.ndarray]) -> None:
        """Does beforehand what `prepare` does once, for any conditions of as many samples.

        Args:
            cond: conditioning inputs, [B, ...], of any values that the model takes.
        """
        return None

    @abstractmethod
    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates the score graph on one batch.

        Args:
            inputs: every graph input by name: `x` [B, *S] float32, `grad_scale` [B] float32, and the
                conditioning inputs [B, ...] or what `prepare` made of them. All are C-contiguous.

        Returns:
            `energy` [B] float32 and `grad` [B, *S] float32 = grad_scale * dE/dx. The arrays belong to the
            caller until the next call of `run`, which may reuse them.
        """

    @abstractmethod
    def open(self) -> None:
        """Loads and compiles; called by `__enter__`."""

    @abstractmethod
    def close(self) -> None:
        """Frees the session; safe to call twice."""

    def device_loop(self) -> DeviceLoop | None:
        """Returns what runs chains on the engine's device, going on from its last `run`; None if nothing does."""
        return None

    def stays_on_host(self, why: str) -> None:
        """Is told why chains go through the host, each step; an engine with a `device_loop` says so once for each reason."""
        return None

    def __enter__(self) -> Engine:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_only(array: np.ndarray) -> np.ndarray:
    """Returns a C-contiguous view or copy of an array that cannot be written to."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
