"""The noise of the next step, drawn by a second thread while the engine works on this one.

Drawing takes 8 ns a number on one core and is the largest part of a step that is not the engine's. numpy's generators and the
engines' libraries let other threads run meanwhile, and counter-based numbers do not depend on when or by whom they are drawn: the
bits are those of a loop without a second thread.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import numpy as np

from .device import usable_cores

__all__ = ["NoiseAhead", "pays"]

_LEAST_NUMBERS = 2**13
"""Numbers drawn together from which a second thread is worth its while, see `pays`."""

_LEAST_AT_A_TIME = 2**9
"""Numbers in one step from which drawing them lets the other thread run meanwhile."""

Draw = Callable[[int, np.ndarray], object]
"""(step, array) -> writes the step's numbers into the array [B, *S] float32."""


def pays(numbers: int, stride: int = 1) -> bool:
    """Whether a second thread makes steps with so many numbers shorter.

    Args:
        numbers: of one step.
        stride: steps that are drawn together.

    Handing arrays over takes 15 us of a step, and drawing 2^13 numbers 120 us. Beside a small
    engine, whose steps were noise to a third, on the other of two cores steps of 3072 numbers became 6 % longer, of 6144 13 %
    shorter, and of 24576 24 % shorter. Where the engine keeps every core busy, little is won and 15 us are lost. With one
    core there is nobody to hand anything to. A thread that draws few numbers at a time holds the interpreter nearly all the while:
    with two numbers for each of 32 steps, steps of 9.2 us became 11.5.
    """
    return numbers * stride >= _LEAST_NUMBERS and numbers >= _LEAST_AT_A_TIME and usable_cores() > 1


class NoiseAhead:
    """Gives the numbers of one step and has those of the next drawn.

    A second thread begins with the first step's at once, while a chain's start is prepared. It is that of an earlier run where one has
    ended: to start and to end one takes 0.4 ms, which is 2 % of a call of a policy with an image. It never keeps a process alive, and stays
    on the CPUs that it was started on.

    Args:
        draw: called by one thread at a time.
        shape: of a step's numbers.
        steps: number of steps; nothing is drawn beyond the last.
        stride: from one step that is asked for to the next.
        first: the step that will be asked for first.
    """

    def __init__(self, draw: Draw, shape: tuple[int, ...], steps: int, stride: int = 1, first: int = 0) -> None:
        self._draw = draw
        self._steps = steps
        self._stride = stride
        self._given, self._coming = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        self._expected: int | None = None  # the step whose numbers are being drawn
        # This run's own, so that what an interrupted one was told is nothing to the next with the same thread.
        self._results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread: _Thread | None = None
        self._order(first)

    def take(self, step: int) -> np.ndarray:
        """Returns the numbers of a step, which stay what they are until the next call.

        Any step may be asked for; the one after the last that was is there already, or soon.
        """
        if self._expected is not None:
            drawn, self._expected = self._expected, None
            error = self._results.get()
            if error is not None:
                raise error
            if drawn != step:
                self._draw(step, self._coming)
        else:
            self._draw(step, self._coming)
        self._given, self._coming = self._coming, self._given
        self._order(step + self._stride)
        return self._given

    def _order(self, step: int) -> None:
        """Has a step's numbers drawn, where there is such a step."""
        if step >= self._steps:
            return
        if self._thread is None:
            self._thread = _borrowed()
        self._thread.orders.put((self._draw, step, self._coming, self._results))
        self._expected = step

    def close(self) -> None:
        """Leaves the thread to the next run, once it has drawn what it is drawing; safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():  # it is not in a process that was forked during the run
            if self._expected is not None:
                self._expected = None
                self._results.get()
            _IDLE.append(thread)


class _Thread(threading.Thread):
    """Draws what it is ordered to, for one run after another."""

    def __init__(self) -> None:
        super().__init__(name="ebm-export noise", daemon=True)
        self.orders: queue.SimpleQueue[tuple[Draw, int, np.ndarray, queue.SimpleQueue[BaseException | None]]] = (
            queue.SimpleQueue()
        )

    def run(self) -> None:
        while True:
            draw, step, out, results = self.orders.get()
            try:
                draw(step, out)
            except BaseException as error:  # raised where the numbers are asked for
                results.put(error)
            else:
                results.put(None)
            del draw, out, results  # else they are kept until the next order


_IDLE: list[_Thread] = []
"""Threads that no run has."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDLE.clear)  # where they do not exist


def _borrowed() -> _Thread:
    """A thread of an earlier run, or a new one."""
    try:
        return _IDLE.pop()
    except IndexError:
        thread = _Thread()
        thread.start()
        return thread
