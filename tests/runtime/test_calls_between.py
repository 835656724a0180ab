"""Calls of one Ebm from a callback, between two states of a stream, and from several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, UsageError, load
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.composition import compose
from ebm_export.runtime.progress import Progress, ProgressOnly

from .tiny_bundle import write_bundle

OTHER = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32) * 50
HELD = 30.0
"""Seconds that another thread keeps the engine: far more than any machine takes for what does not wait for it."""
SAMPLERS = ["langevin", "preconditioned", "underdamped", "optimize", "mala", "hmc", "tempering"]


@pytest.fixture(params=[OnnxRuntimeEngine, OpenVinoEngine])
def ebm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ebm]:
    """Whose engine answers into the same memory at every call of the same size."""
    bundle = write_bundle(tmp_path / "m.ebm")
    engine = request.param(bundle / "score.fp32.onnxruntime.onnx", precision="fp32", threads=1)
    engine.needs_scale = False  # with a scale, gradients are divided into memory of their own
    with load(bundle, engine=engine) as opened:
        yield opened


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_callback_may_score(ebm: Ebm, sampler: str) -> None:
    settings: dict[str, Any] = {"sampler": sampler, "steps": 30, "step_size": 0.1}
    alone = ebm.sample(6, 3, **settings)
    scored = ebm.sample(6, 3, callback=lambda now: ebm.score(OTHER), **settings)
    np.testing.assert_array_equal(scored, alone)


def test_one_that_is_only_told_of_the_progress_may_too(ebm: Ebm) -> None:
    told = ProgressOnly(lambda done, total: ebm.score(OTHER))
    np.testing.assert_array_equal(ebm.sample(6, 3, callback=told), ebm.sample(6, 3))


def test_a_callback_may_sample(ebm: Ebm) -> None:
    def tell(now: Progress) -> None:
        ebm.sample(6, 5, steps=3)

    np.testing.assert_array_equal(ebm.sample(6, 3, callback=tell), ebm.sample(6, 3))


def test_streams_may_be_read_in_turns_with_other_calls(ebm: Ebm) -> None:
    alone = list(ebm.stream(6, 3))[-1]
    disturbed = [(best, ebm.score(OTHER))[0] for best in ebm.stream(6, 3)]
    np.testing.assert_array_equal(disturbed[-1].x, alone.x)
    np.testing.assert_array_equal(disturbed[-1].energy, alone.energy)
    pairs = list(zip(ebm.stream(6, 3, steps=20, noise=0.0), ebm.stream(6, 4, steps=20, noise=0.0), strict=True))
    for index, seed in enumerate((3, 4)):
        np.testing.assert_array_equal(pairs[-1][index].x, list(ebm.stream(6, seed, steps=20, noise=0.0))[-1].x)


def test_threads_take_turns(ebm: Ebm) -> None:
    alone = [ebm.sample(6, seed) for seed in range(4)]
    wanted = ebm.score(OTHER)
    found: list[Any] = [[] for _ in alone]

    def work(seed: int) -> None:
        for _ in range(20):
            found[seed].append((ebm.sample(6, seed), *ebm.score(OTHER)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for samples, answers in zip(alone, found, strict=True):
        assert len(answers) == 20
        for x, energy, grad in answers:
            np.testing.assert_array_equal(x, samples)
            np.testing.assert_array_equal(energy, wanted[0])
            np.testing.assert_array_equal(grad, wanted[1])


def test_streams_and_compositions_take_turns_with_other_threads(ebm: Ebm) -> None:
    alone, wanted = list(ebm.stream(6, 3, steps=300))[-1], ebm.score(OTHER)
    both = compose([ebm, ebm])
    together, over = both.sample(6, 3, steps=300), threading.Event()
    wrong: list[object] = []

    def work() -> None:
        while not over.is_set():
            energy, grad = ebm.score(OTHER)
            if not (np.array_equal(energy, wanted[0]) and np.array_equal(grad, wanted[1])):
                wrong.append(energy)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        np.testing.assert_array_equal(list(ebm.stream(6, 3, steps=300))[-1].x, alone.x)
        np.testing.assert_array_equal(both.sample(6, 3, steps=300), together)
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_deadline_does_not_wait_for_another_thread(ebm: Ebm) -> None:
    begun, over = threading.Event(), threading.Event()

    def hold(now: Progress) -> None:
        begun.set()
        over.wait(HELD)

    thread = threading.Thread(target=lambda: ebm.sample(6, callback=hold), daemon=True)
    thread.start()
    begun.wait(30)
    at = perf_counter()
    with pytest.raises(UsageError, match="deadline_ms: another thread's call kept the engine until then"):
        ebm.sample(6, deadline_ms=50)
    assert perf_counter() - at < HELD / 2
    over.set()
    thread.join()
    assert ebm.sample(6, deadline_ms=1e6).complete


def test_a_stream_ends_with_what_it_has_where_another_thread_keeps_the_engine(ebm: Ebm) -> None:
    begun, over = threading.Event(), threading.Event()

    def hold(now: Progress) -> None:
        begun.set()
        over.wait(HELD)

    ebm.warm(6)
    stream = ebm.stream(6, 3, deadline_ms=500, steps=10**8)
    late = ebm.stream(6, 3, deadline_ms=500)
    first = next(stream)
    thread = threading.Thread(target=lambda: ebm.sample(6, callback=hold), daemon=True)
    thread.start()
    begun.wait(30)
    try:
        at = perf_counter()
        *_, last = stream
        assert perf_counter() - at < HELD / 2
        assert not last.complete and (last.energy <= first.energy).all() and np.isfinite(last.x).all()
        with pytest.raises(UsageError, match="deadline_ms: another thread's call kept the engine until then"):
            next(late)
    finally:
        over.set()
        thread.join()


def test_a_stream_that_is_left_holds_nobody_up(ebm: Ebm) -> None:
    stream = ebm.stream(6, 3)
    next(stream)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (ebm.sample(6), done.set()), daemon=True)
    thread.start()
    assert done.wait(30)
