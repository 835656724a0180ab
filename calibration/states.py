"""States along a model's own chains, kept on disk, for passes that need to see them more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
from ..runtime.gradient_scale import ScaledScore
from ..runtime.progress import Progress
from ..runtime.row_norms import square_sums
from ..runtime.run import run_chains
from ..runtime.start import start_states
from .trajectory import Watched

__all__ = ["DATA_STEP", "States", "record_states"]

DATA_STEP = -1
"""Step of a state that is real data and not a point of a chain."""

_LARGEST = 32
"""Of so many states of a stage one is that with the largest gradient of those that are left. Gradients that are large for a stage are
rare, and so are the numbers inside the network that come with them: of the digits one state in a hundred has inner numbers three times
as large as all others. A grid without them cuts them off, and what that takes from the largest gradients is what the gate sees."""
_CALL = 64
"""States in one engine call where the caller sets no limit, for those whose scale has to be found."""


@dataclass(frozen=True)
class States:
    """Where the score graph is asked along trajectories. The arrays are files that are mapped, not read.

    Attributes:
        x: [M, *S] float32.
        grad_scale: [M] float32, the gradient scale that the chain ran with there.
        step: [M] int64, steps taken; `DATA_STEP` for real data.
        chain: [M] int64, number of the chain; for real data one for each state, after those of the chains.
        row: [M] int64, the row of the conditions that the state goes with.
        large: [M] bool, states that were kept for their large gradients. They belong in a range and not in a mean, where such
            states are as rare as they come.
        conditions: rows of the conditioning inputs by graph name, [R, ...].
    """

    x: np.ndarray
    grad_scale: np.ndarray
    step: np.ndarray
    chain: np.ndarray
    row: np.ndarray
    large: np.ndarray
    conditions: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields the score graph's inputs, at most `size` states at a time, in order."""
        for first in range(0, len(self), size):
            yield self.inputs(slice(first, first + size))

    def part(self, rows: np.ndarray) -> States:
        """Returns some of the states, by number, as arrays in memory."""
        return States(
            np.array(self.x[rows]),
            np.array(self.grad_scale[rows]),
            np.array(self.step[rows]),
            np.array(self.chain[rows]),
            np.array(self.row[rows]),
            np.array(self.large[rows]),
            self.conditions,
        )

    def share(self, count: int) -> np.ndarray:
        """Returns [M] int64, which of `count` shares of the chains a state's belongs to.

        Chains take the conditions in turns, so shares by their number alone could be of one condition each: those that go with a
        condition are dealt out to the shares in turns too.
        """
        given = len(np.unique(self.row[self.step != DATA_STEP])) or 1
        return np.asarray((self.row + self.chain // given) % count)

    def inputs(self, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
        """Returns the score graph's inputs for some states, as arrays in memory."""
        arrays = {"x": self.x, "grad_scale": self.grad_scale}
        taken = self.row[rows]
        return {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()} | {
            name: array[taken] for name, array in self.conditions.items()
        }


def record_states(
    engine: Engine,
    config: SamplerConfig,
    shape: tuple[int, ...],
    folder: Path,
    *,
    count: int = 1024,
    stages: int = 32,
    chains: int = 512,
    seed: int,
    cond: Mapping[str, np.ndarray] | None = None,
    start: np.ndarray | None = None,
    data: np.ndarray | None = None,
    data_rows: np.ndarray | None = None,
    data_cond: Mapping[str, np.ndarray] | None = None,
    max_batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> States:
    """Runs chains from the model's own start distribution and keeps a stratified part of their states.

    Every stage, from the start to the end in even distances of steps, gives the same number of states, and every
    chain gives its share at every few stages. One state in 32 of a stage, none of fewer, is one of those with the largest gradients
    there. A state is where the engine was asked (see `record_trajectory`).

    Args:
        engine: an open engine in float32; the sampler is the runtime's own, gradient scaling included.
        config: the sampler's settings.
        shape: shape of one state.
        folder: an existing folder for the files, (4 * prod(shape) + 28) bytes for each state.
        count: number of states along chains; at least one per stage is kept.
        stages: number of stages, start and end included; fewer where there are fewer steps.
        chains: number of chains.
        seed: same seed, same states.
        cond: conditioning arrays by graph name, [R, ...]; chain i takes row i modulo R.
        start: states that chains start from, for init="data".
        data: [D, *S] real data, which may be a file that is mapped; a quarter as many states as `count`, or all of them, are added
            behind the others.
        data_rows: [P] int64, numbers of the data that may be taken; all where left out.
        data_cond: the conditions of these, [P, ...] by the same names as `cond`. Where left out, the data go on with the rows of
            `cond` where the chains stopped.
        max_batch: most chains in one engine call.
        progress: called with (chain steps done, in all).

    Raises:
        DivergenceError: a chain left the numbers that a float can hold.
    """
    wanted = sorted({round(done) for done in np.linspace(0, config.steps, stages)})
    each = min(chains, -(-count // len(wanted)))
    # Chains take turns: stage g keeps `each` chains from number g * each on, around the ring.
    largest = each // _LARGEST
    slots = {
        (done, (g * each + k) % chains): g * each + k for g, done in enumerate(wanted) for k in range(each - largest)
    }
    # By step: minus the square of the gradient's size, chain, state and scale.
    steepest: dict[int, list[tuple[float, int, np.ndarray, float]]] = {done: [] for done in wanted}
    conditions = dict(cond or {})
    given = max(map(len, conditions.values()), default=1)
    usable = np.arange(0 if data is None else len(data)) if data_rows is None else data_rows
    chosen = _spread(len(usable), max(1, count // 4))
    if data_cond:
        conditions = {name: np.concatenate([array, data_cond[name][chosen]]) for name, array in conditions.items()}
    along = each * len(wanted)
    total = along + len(chosen)

    def made(name: str, each_shape: tuple[int, ...], dtype: np.dtype[np.generic] | type[np.generic]) -> np.ndarray:
        return np.lib.format.open_memmap(  # type: ignore[no-any-return, no-untyped-call]
            folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(total, *each_shape)
        )

    x, scale = made("x", shape, np.float32), made("grad_scale", (), np.float32)
    step, number, taken = (made(name, (), np.int64) for name in ("step", "chain", "row"))
    large = np.zeros(total, bool)
    watched = Watched(engine, config)

    def keep(now: Progress) -> None:
        if progress is not None:
            progress(*now.part)
        if now.done not in wanted:
            return
        asked, scales = watched.where(now), now.grad_scale
        assert scales is not None, "chains on a watched engine have a scale"
        others = []
        sizes = np.nan_to_num(square_sums(np.ascontiguousarray(now.state.grad)))  # nothing was asked at some starts
        for row, chain in enumerate(now.chains):
            slot = slots.get((now.done, chain))
            if slot is None:
                others.append((-float(sizes[row]), chain, row))
            else:
                put(slot, now.done, chain, asked[row], scales[row])
        found = [(size, chain, asked[row].copy(), float(scales[row])) for size, chain, row in sorted(others)[:largest]]
        steepest[now.done] = sorted(steepest[now.done] + found, key=lambda entry: entry[:2])[:largest]

    def put(slot: int, done: int, chain: int, state: np.ndarray, its_scale: float) -> None:
        x[slot], scale[slot] = state, its_scale
        step[slot], number[slot], taken[slot] = done, chain, chain % given

    run_chains(
        watched,
        config,
        lambda numbers: start_states(config, shape, numbers, seed, start),
        chains,
        seed=seed,
        cond={name: array[np.arange(chains) % given] for name, array in conditions.items()},
        max_batch=max_batch,
        callback=keep,
    )
    for g, done in enumerate(wanted):
        for place, (_, chain, state, its_scale) in enumerate(steepest[done]):
            slot = (g + 1) * each - largest + place
            put(slot, done, chain, state, its_scale)
            large[slot] = True
    number[along:] = chains + np.arange(len(chosen))
    taken[along:] = given + np.arange(len(chosen)) if data_cond else number[along:] % given
    states = States(x, scale, step, number, taken, large, conditions)
    size = max_batch or _CALL
    if data is not None:
        for first in range(0, len(chosen), size):
            rows = usable[chosen[first : first + size]]
            _add_data(engine, states, data[rows], slice(along + first, along + first + len(rows)))
    return states


def _spread(length: int, count: int) -> np.ndarray:
    """At most `count` indices spread evenly over range(length)."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))


def _add_data(engine: Engine, states: States, data: np.ndarray, rows: slice) -> None:
    """Writes a batch of real data [B, *S] into these rows."""
    x = np.ascontiguousarray(data, dtype=np.float32)
    cond = states.inputs(rows)
    score = ScaledScore(engine, {name: cond[name] for name in states.conditions}, scaled=True)
    score(x)
    states.x[rows], states.step[rows], states.grad_scale[rows] = x, DATA_STEP, score.scale
