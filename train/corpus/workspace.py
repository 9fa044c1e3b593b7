"""An unfinished build on disk: steps that are done once, and worker processes that keep the order of what they are given."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..parent import leave_with_parent
from .spec import BuildStopped
from .store import sync

Receipt = TypeVar("Receipt", bound=BaseModel)
In = TypeVar("In")
Out = TypeVar("Out")
FEW = 8  # items below which starting the processes takes longer than they save
AHEAD = 2  # batches that wait for each worker: what bounds memory


@dataclass(frozen=True)
class Workspace:
    """The folder of a build that is under way. A step is finished when its receipt is there, and then never done again."""

    folder: Path
    processes: int
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    def step(self, name: str, kind: type[Receipt], make: Callable[[], Receipt]) -> Receipt:
        """The receipt of a step: read where an earlier build finished it, else made. `make` syncs the files it writes."""
        path = self.folder / f"{name}.receipt.json"
        try:
            return kind.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            pass  # never finished, or by another version of sixnd, whose receipts say less
        started = time.perf_counter()
        receipt = make()
        temporary = path.with_suffix(".tmp")
        temporary.write_text(receipt.model_dump_json(), encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
        sync(self.folder)
        self.seconds[name] = time.perf_counter() - started
        return receipt

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """`function` of each item, in order, by as many processes as the build may use.

        Raises:
            BuildStopped: a process was killed from outside.
        """
        items = iter(items)
        first = list(islice(items, FEW))
        if self.processes == 1 or len(first) < FEW:
            yield from map(function, chain(first, items))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.processes, context, _settle, (function,)) as pool:
            waiting: deque[Future[Out]] = deque()
            try:
                for item in chain(first, items):
                    waiting.append(pool.submit(_call, item))
                    if len(waiting) >= self.processes * AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BrokenProcessPool:
                raise BuildStopped("a worker process was killed (out of memory?); use fewer with --processes") from None
            finally:
                pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _settle(function: Callable[[Any], Any]) -> None:
    """Once in each worker: the function with its tables, deaf to Ctrl-C, and gone when the builder is gone."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent()


def _call(item: Any) -> Any:
    return _function(item)
