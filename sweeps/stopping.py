"""Ctrl-C and SIGTERM: the first asks for an orderly stop, the second ends at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a preempted machine sends SIGTERM some seconds before it goes


class Interrupted(Exception):
    """Training was stopped between two steps, nothing of it lost; the message says how to go on."""

    exit_code = 1


@dataclass
class StopRequest:
    """Whether somebody asked to stop."""

    asked: bool = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Around whatever puts handlers of its own in place: those of before are back afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside the block the first of SIGNALS sets the request, and the second raises KeyboardInterrupt.

    Must be entered in the main thread, as Python's signal handlers are.
    """
    request = StopRequest()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    with handlers_kept():
        for number in SIGNALS:
            signal.signal(number, handle)
        yield request
