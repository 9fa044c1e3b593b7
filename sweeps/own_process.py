"""A call in a process of its own: what it imports and allocates is gone when it has answered."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from ..train.parent import leave_with_parent

P = ParamSpec("P")
R = TypeVar("R")


class ProcessLost(RuntimeError):
    """The process ended without an answer; the message names the call."""

    exit_code = 1


def in_own_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function of a module; it, its arguments and its answer must be picklable.

    Raises:
        ProcessLost: the process was killed.
        Exception: whatever the function raises.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=leave_with_parent) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise ProcessLost(
                f"{function.__name__}: its process was killed (out of memory?); the same command tries again"
            ) from None
