"""Chains that leave the host after their first evaluation; what runs them there is a `DeviceLoop`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .chain import rows_of
from .chain_numbers import Chains, shifted
from .checkpoint import Checkpoint, Saved
from .config import SamplerConfig
from .device_loop import DeviceLoop, DeviceState, Handover
from .divergence import EARLIER, stop_if_diverged
from .engine import Engine
from .fused_steps import FUSABLE
from .method import knows_energies
from .progress import Callback, Progress, ProgressOnly
from .sample_file import SampleFile
from .snapshot import Snapshot

__all__ = ["finish_on_device", "hand_over", "hindrance", "loop_for"]


_MOST_STEPS = 2**31 - 1
"""A loop on a device counts them in 32 bits."""


def hindrance(config: SamplerConfig, **asked: Any) -> str | None:
    """Returns what keeps chains from staying on the engine's device, in words; None where nothing does.

    Args:
        config: the sampler's settings.
        **asked: arguments of `run_chains`.
    """
    if config.sampler not in FUSABLE:
        return f'the sampler "{config.sampler}" accepts and rejects, which the loop there does not'
    if config.steps > _MOST_STEPS:
        return f"the loop there counts up to {_MOST_STEPS} steps, and the chains have {config.steps}"
    words = {
        "exact": "exact sampling asks two engines",
        "switches": "precisions change over the steps",
    }
    return next((words[name] for name, value in asked.items() if value), None)


def loop_for(engine: Engine, config: SamplerConfig, callback: Callback | None, **asked: Any) -> DeviceLoop | None:
    """Returns the loop of an engine's device where chains can stay there, else None; the engine is told why not.

    Args:
        engine: an open engine.
        config: the sampler's settings.
        callback: of `run_chains`; one that may look at states is promised every one, which the host alone has.
        **asked: as for `hindrance`.
    """
    if not isinstance(callback, ProgressOnly | None):
        return None
    why = hindrance(config, **asked)
    if why is not None:
        engine.stays_on_host(why)
        return None
    return engine.device_loop()


def hand_over(
    now: Progress,
    config: SamplerConfig,
    key: tuple[int, int],
    free: np.ndarray | None,
    highest_scale: float | None,
    *,
    stop: bool = False,
    energy_range: tuple[float, float] | None = None,
    tell: Callable[[int], None] = lambda done: None,
    first: int = 0,
) -> Handover:
    """Returns what a device loop goes on from; `now` is of the engine's last call; `free` and `first` as in `run_chains`."""
    state = now.state._asdict()
    position = np.ascontiguousarray(state.pop("position"), dtype=np.float32)
    carried = {name: np.ascontiguousarray(array) for name, array in state.items() if name not in ("energy", "grad")}
    mask = None if free is None else np.ascontiguousarray(rows_of(free, now.chains, 1), dtype=np.float32)
    chains = shifted(now.chains, first)
    assert isinstance(chains, range)
    return Handover(config, position, carried, now.done, key, chains, mask, highest_scale, stop, energy_range, tell)


def finish_on_device(
    loop: DeviceLoop,
    steps: Iterator[Progress],
    config: SamplerConfig,
    chains: Chains,
    key: tuple[int, int],
    free: np.ndarray | None,
    highest_scale: float | None,
    stop: bool,
    energy_range: tuple[float, float] | None,
    callback: Callback | None,
    samples: SampleFile | None = None,
    checkpoint: Checkpoint | None = None,
    saved: Callable[[Snapshot], Saved] | None = None,
    resumed: bool = False,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes the first evaluation from `chain_steps`, since it looks for the gradient's scale, and all else from the device.

    The arguments are those of `run_chains`, and `key` of the noise, `saved`, which makes what a checkpoint keeps, and `resumed`,
    whether the chains go on from a snapshot.

    Returns:
        Final positions [B, *S] float32, and [B] int, the steps after which a chain's numbers were seen to be no longer finite, -1
        where they are.
    """
    now = next(steps)
    if not knows_energies(config) and now.done == 0:  # nothing is evaluated before the first step
        now = next(steps)
    position: np.ndarray = now.state.position
    seen = np.full(len(chains), -1)
    if now.diverged is not None:
        seen[now.diverged] = EARLIER if resumed else now.done

    def tell(done: int) -> None:
        if callback is not None:
            callback(now._replace(done=done))

    def look(done: int, position: np.ndarray) -> None:
        if samples is not None and done % samples.every == 0 < done:
            samples.write(done // samples.every - 1, chains, position)

    def save(done: int, state: DeviceState) -> None:
        assert checkpoint is not None and saved is not None
        checkpoint.save(saved(_snapshot(now, done, state, start.free)))

    tell(now.done)
    look(now.done, position)
    if now.done < config.steps:
        start = hand_over(
            now, config, key, free, highest_scale, stop=stop, energy_range=energy_range, tell=tell, first=first
        )
        start = start._replace(every=None if samples is None else samples.every, look=look)
        if resumed:
            energy, grad = (np.ascontiguousarray(array, np.float32) for array in (now.state.energy, now.state.grad))
            start = start._replace(answer=(energy, grad))
        if checkpoint is not None:
            start = start._replace(due=lambda: checkpoint.due, save=save)
        position, hit = loop.run(start)
        if stop and (hit >= 0).any():
            step = int(hit[hit >= 0].min())
            stop_if_diverged(int(np.count_nonzero(hit == step)), step, len(chains), energy_range)
        finite = np.isfinite(position).reshape(len(chains), -1).all(axis=1)
        if stop:
            stop_if_diverged(int(np.count_nonzero(~finite)), config.steps, len(chains), energy_range)
        look(config.steps, position)
        seen = np.where(seen == -1, hit, seen)
        seen[(seen == -1) & ~finite] = config.steps
    return position, seen


def _snapshot(now: Progress, done: int, state: DeviceState, free: np.ndarray | None) -> Snapshot:
    """Returns what chains on a device go on from, as the host would have it; `now` is what they came from, `free` is [B, *S]."""
    assert now.snapshot is not None
    begun = now.snapshot()
    with np.errstate(over="ignore", invalid="ignore"):
        grad = state.grad / state.answer_scale.reshape(-1, *[1] * (state.grad.ndim - 1))
        if free is not None:
            grad *= free
    scale = begun.scale._replace(scale=state.answer_scale)
    if scale.following is not None:
        scale = scale._replace(following=state.scale)
    lost = state.lost >= 0
    if now.diverged is not None:
        lost |= now.diverged
    return begun._replace(
        done=done,
        state=type(now.state)(position=state.position, energy=state.energy, grad=grad, **state.carried),
        scale=scale,
        lost=lost if lost.any() else None,
        calls=begun.calls + done - begun.done,
    )
