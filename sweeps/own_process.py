"""A call in a process of its own: what it imports and allocates is gone when it has answered."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from ..train.parent import leave_with_parent

P = ParamSpec("P")
R = TypeVar("R")


class ProcessLost(RuntimeError):
    """The process ended without an answer; the message names the call."""

    exit_code = 1


def in_own_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function of a module; it, its arguments and its answer must be picklable. For the main thread.

    Raises:
        ProcessLost: the process was killed.
        KeyboardInterrupt: Ctrl-C here, which the function has heard of and ended by, too.
        Exception: whatever the function raises.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=leave_with_parent) as pool:
        try:
            with _deaf_to_ctrl_c():  # as the process then is, from before its imports on
                future = pool.submit(_interruptible, partial(function, *args, **kwargs))
            return future.result()
        except BrokenProcessPool:
            raise ProcessLost(
                f"{function.__name__}: its process was killed (out of memory?); the same command tries again"
            ) from None
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _interruptible(call: Callable[[], R]) -> R:
    """In the process: while the call is at work, SIGTERM interrupts it; at any other time it ends the process."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return call()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started inside never hear of it, and it reaches us afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
