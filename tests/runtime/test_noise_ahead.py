"""Noise that is drawn while the engine works: same bits, and a thread for the next run."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime import chain_random as chain_random_module
from ebm_export.runtime import noise_ahead as noise_ahead_module
from ebm_export.runtime.chain import chain_steps
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.noise_ahead import NoiseAhead, pays
from ebm_export.runtime.run import run_chains

from .samplers.test_contract import SAMPLERS, bowl, run, settings


def helpers() -> list[threading.Thread]:
    """Those that a run has."""
    threads = [thread for thread in threading.enumerate() if thread.name == "ebm-export noise"]
    return [thread for thread in threads if thread not in noise_ahead_module._IDLE]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    yield
    assert not helpers()
    assert len(set(noise_ahead_module._IDLE)) == len(noise_ahead_module._IDLE)  # none is lent twice


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_random_module, "pays", lambda numbers, stride=1: True)


def numbered(step: int, out: np.ndarray) -> None:
    out[:] = step


class TestNoiseAhead:
    def test_gives_every_step_its_own_in_any_order(self) -> None:
        noise = NoiseAhead(numbered, (3,), 10)
        for step in (0, 1, 2, 7, 8, 8, 3, 9, 9, 0):
            np.testing.assert_array_equal(noise.take(step), np.full(3, step))
        noise.close()
        noise.close()

    def test_draws_the_next_step_meanwhile_and_nothing_beyond_the_last(self) -> None:
        drawn: list[tuple[int, str]] = []
        begun, told = threading.Event(), threading.Event()

        def draw(step: int, out: np.ndarray) -> None:
            drawn.append((step, threading.current_thread().name))
            numbered(step, out)
            if step == 0:
                begun.set()
            if step == 1:
                told.set()

        noise = NoiseAhead(draw, (3,), 3)
        assert begun.wait(10)  # before anything was asked for
        kept = noise.take(0)
        assert told.wait(10)  # without being asked for
        np.testing.assert_array_equal(kept, 0)  # which is not written over
        noise.take(1), noise.take(2)
        time.sleep(0.05)
        noise.close()
        assert [step for step, _ in drawn] == [0, 1, 2]
        assert {name for _, name in drawn} == {"ebm-export noise"}

    def test_begins_where_it_is_told_to(self) -> None:
        drawn: list[int] = []

        def draw(step: int, out: np.ndarray) -> None:
            drawn.append(step)
            numbered(step, out)

        noise = NoiseAhead(draw, (3,), 10, 2, 4)
        for step in (4, 6, 8):
            np.testing.assert_array_equal(noise.take(step), np.full(3, step))
        noise.close()
        assert drawn == [4, 6, 8]

    def test_an_error_of_the_thread_comes_where_the_numbers_are_asked_for(self) -> None:
        def draw(step: int, out: np.ndarray) -> None:
            if step == 1:
                raise MemoryError("no numbers")

        noise = NoiseAhead(draw, (3,), 5)
        noise.take(0)
        with pytest.raises(MemoryError, match="no numbers"):
            noise.take(1)
        noise.take(2)
        noise.close()

    def test_the_next_run_has_the_same_thread(self) -> None:
        drawn: list[threading.Thread] = []

        def draw(step: int, out: np.ndarray) -> None:
            drawn.append(threading.current_thread())
            numbered(step, out)

        for _ in range(3):
            noise = NoiseAhead(draw, (3,), 3)
            noise.take(0), noise.take(1)
            noise.close()  # before the last was asked for
        assert len(drawn) == 9 and len(set(drawn)) == 1

    def test_runs_beside_one_another_have_their_own(self) -> None:
        first, second = (NoiseAhead(lambda step, out, run=run: out.fill(10 * run + step), (3,), 5) for run in range(2))
        assert len(helpers()) == 2
        for step in range(5):
            np.testing.assert_array_equal([noise.take(step)[0] for noise in (first, second)], [step, 10 + step])
        first.close(), second.close()

    def test_what_an_interrupted_run_was_told_is_nothing_to_the_next(self) -> None:
        go_on = threading.Event()

        def slow(step: int, out: np.ndarray) -> None:
            assert go_on.wait(10)
            numbered(step, out)

        interrupted = NoiseAhead(slow, (3,), 5)
        interrupted._expected = None  # as Ctrl-C leaves it where `take` waits
        interrupted.close()
        noise = NoiseAhead(slow, (3,), 5, first=3)
        assert not noise._results.qsize()
        go_on.set()
        np.testing.assert_array_equal(noise.take(3), np.full(3, 3))
        noise.close()

    def test_keeps_nothing_of_a_run_that_ended(self) -> None:
        numbers = weakref.ref(noise := NoiseAhead(numbered, (3,), 5))
        arrays = weakref.ref(noise.take(0))
        noise.close()
        del noise
        gc.collect()
        deadline = time.monotonic() + 10
        while (numbers() or arrays() is not None) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert numbers() is None and arrays() is None

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_process_has_threads_of_its_own(self) -> None:
        code = """
import os, time, numpy as np
from ebm_export.runtime.noise_ahead import NoiseAhead

def drawn():
    noise = NoiseAhead(lambda step, out: out.fill(step), (3,), 3)
    found = noise.take(0)[0] + noise.take(1)[0]
    noise.close()
    return found

assert drawn() == 1
noise = NoiseAhead(lambda step, out: time.sleep(0.3), (3,), 3)  # its thread is not in the child
child = os.fork()
if not child:
    noise.close()
    os._exit(0 if drawn() == drawn() == 1 else 1)
noise.close()
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=False).returncode == 0


class TestChainRandom:
    def test_has_the_same_bits(self, always: None) -> None:
        free = np.array([[1, 0, 1]], np.float32)
        plain, ahead = (ChainRandom(3, range(2, 6), (3,), free, 2, attempt=1) for _ in range(2))
        ahead.draw_ahead(5)
        for step in range(5):
            np.testing.assert_array_equal(ahead.at(step).normal(), plain.at(step).normal())
            np.testing.assert_array_equal(ahead.at(step).uniform(), plain.at(step).uniform())
        ahead.close()

    def test_tiny_states_start_no_thread(self) -> None:
        random = ChainRandom(3, range(8), (3,))
        random.draw_ahead(5)
        random.at(0).normal()
        assert not helpers()


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_the_same_to_the_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(name)
    expected = run(name, config, 7, max_batch=4)
    monkeypatch.setattr(chain_random_module, "pays", lambda numbers, stride=1: True)
    np.testing.assert_array_equal(run(name, config, 7, max_batch=4), expected)


def test_a_schedule_that_switches_the_noise_off(always: None) -> None:
    off = SamplerConfig(steps=20, step_size=0.1, noise=(1.0, 0.0, 1.0, 0.0))
    seen = run("langevin", off, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_random_module, "pays", lambda numbers, stride=1: False)
        np.testing.assert_array_equal(run("langevin", off, 4), seen)


class TestNoThreadIsLeft:
    """The fixture above looks for one."""

    CONFIG = SamplerConfig(steps=50, step_size=0.1)

    def ebm(self) -> Ebm:
        return Ebm(FunctionEngine(bowl), ModelSpec("m", TensorSpec("x", (3,), "float32")), self.CONFIG)

    def test_after_an_error_of_a_callback(self, always: None) -> None:
        def callback(now: Any) -> None:
            if now.done == 3:
                assert helpers()
                raise ZeroDivisionError

        try:
            self.ebm().sample(4, callback=callback)
        except ZeroDivisionError:
            assert not helpers()  # while the traceback still holds the frames
        else:
            pytest.fail("the callback raises")

    def test_after_an_error_of_the_engine(self, always: None) -> None:
        calls: list[int] = []

        def failing(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(1)
            if len(calls) == 9:
                raise ZeroDivisionError
            return bowl(x)

        with pytest.raises(ZeroDivisionError):
            run_chains(FunctionEngine(failing), self.CONFIG, lambda chains: np.zeros((len(chains), 3)), 4)

    def test_after_a_deadline(self, always: None) -> None:
        self.ebm().sample(4, deadline_ms=1e-3)
        assert self.ebm().sample(4, deadline_ms=1e6).complete

    def test_after_a_stream_that_nobody_reads_on(self, always: None) -> None:
        stream = self.ebm().stream(4)
        next(stream), next(stream)
        assert helpers()
        del stream
        gc.collect()
        assert not helpers()

    def test_after_steps_that_were_closed_or_never_begun(self, always: None) -> None:
        x = np.zeros((4, 3), np.float32)
        steps = chain_steps(FunctionEngine(bowl), self.CONFIG, x, range(4), 4)
        next(steps), next(steps)
        assert helpers()
        steps.close()
        assert not helpers()
        chain_steps(FunctionEngine(bowl), self.CONFIG, x, range(4), 4)


class TestPays:
    def test_only_for_many_numbers_and_more_than_one_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(noise_ahead_module, "usable_cores", lambda: 4)
        assert pays(8 * 3072) and not pays(1024 * 2)
        monkeypatch.setattr(noise_ahead_module, "usable_cores", lambda: 1)
        assert not pays(8 * 3072)

    def test_counts_the_cores_of_this_process(self) -> None:
        assert 1 <= noise_ahead_module.usable_cores() <= 4096
