"""Training speed of shapes that were not measured, from those that were; and the probe that measures some. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from math import exp, log
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..models.config import ModelConfig
from ..models.flops import training_flops
from .files import atomic_file, cache_folder
from .machine import cpu_name, has_compiler, usable_cores, worker_environment
from .settings import Precision

PROBE_S = 5.0  # of timing all shapes together
FRESH_S = 24 * 3600.0


class ProbeError(RuntimeError):
    """The probe ended without an answer; the message holds its last line."""

    exit_code = 1


class ProbeRequest(BaseModel):
    """Models, by N, a few of which are timed; none for the device's facts alone.

    `slots` None: as many as the machine usually has. `alike`: runs of each that differ in seed and learning rate alone, which a
    GPU trains as one program, and so many of which are timed together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ModelConfig, ...]
    batch_tokens: int = 1
    precision: Precision = "fp32"
    seconds: float = PROBE_S
    slots: int | None = None
    alike: int = 1


class Probed(BaseModel):
    """The device, what it holds, and the tokens/s of one worker for each shape that was timed, every slot busy.

    Where a worker trains several runs at once, stacked, its tokens/s are those of all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    kind: Literal["cpu", "cuda"]
    memory_bytes: int  # of one GPU, or of the machine, which its slots share
    slots: int
    gpus: int = 0  # of the machine
    precision: Precision  # in which it multiplies fast
    compiled: bool
    compiles: bool = True  # whether a worker spends seconds on it, once a width: not where all is our own C++
    stacked: int = 1  # runs that a worker trained at once
    models: tuple[ModelConfig, ...]
    tokens_per_s: tuple[float, ...]

    @property
    def speeds(self) -> dict[ModelConfig, float]:
        return dict(zip(self.models, self.tokens_per_s, strict=True))


def probed(
    models: Collection[ModelConfig],
    batch_tokens: int,
    precision: Precision,
    slots: int | None = None,
    alike: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Probed:
    """Speeds of a few of the models, spread over log N, measured in a process of its own or within the last day.

    Raises:
        ProbeError: the process failed.
    """
    by_size = sorted(set(models), key=lambda model: (model.n_total, model.d_model))
    request = ProbeRequest(
        models=tuple(by_size), batch_tokens=batch_tokens, precision=precision, slots=slots, alike=alike
    )
    return _kept(request, say)


def device_facts(slots: int | None = None) -> Probed:
    """What the device is, without speeds: in the two seconds that importing torch takes, or as known for a day.

    Raises:
        ProbeError: the process failed.
    """
    return _kept(ProbeRequest(models=(), slots=slots), lambda _: None)


def _kept(request: ProbeRequest, say: Callable[[str], None]) -> Probed:
    path = _cache_file(request)
    try:
        if time.time() - path.stat().st_mtime < FRESH_S:
            return Probed.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        pass  # measured again
    if request.models:
        say("timing a few models on this machine: about 15 seconds; kept for a day")
    answer = _measure(request)
    try:
        with atomic_file(path) as file:
            file.write(answer.model_dump_json().encode())
    except OSError:
        pass  # a cache that cannot be written costs the next plan some seconds
    return answer


def speeds_of(models: Collection[ModelConfig], measured: Mapping[ModelConfig, float]) -> dict[ModelConfig, float]:
    """Tokens/s of every model: as measured, else from FLOP/s that are linear in log N between two measured shapes.

    Outside the measured shapes, the FLOP/s of the nearest.
    """
    known = sorted((log(model.n_total), log(speed * training_flops(model).total)) for model, speed in measured.items())

    def flops_per_s(model: ModelConfig) -> float:
        size = log(model.n_total)
        right = bisect_left(known, (size, 0.0))
        if right in (0, len(known)):
            return exp(known[min(right, len(known) - 1)][1])
        (x0, y0), (x1, y1) = known[right - 1], known[right]
        return exp(y0 if x1 == x0 else y0 + (y1 - y0) * (size - x0) / (x1 - x0))

    return {model: measured.get(model) or flops_per_s(model) / training_flops(model).total for model in models}


def _measure(request: ProbeRequest) -> Probed:
    command = [sys.executable, "-m", "sixnd.train.probe"]
    environment = os.environ | worker_environment()
    done = subprocess.run(
        command, input=request.model_dump_json(), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ProbeError(f"the speed of this machine could not be measured: {said[-1]}")
    return Probed.model_validate_json(done.stdout.strip().splitlines()[-1])


def _cache_file(request: ProbeRequest) -> Path:
    circumstances = [
        *(cpu_name(), version("torch"), version("sixnd"), str(usable_cores()), str(has_compiler())),
        *(os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "TORCHDYNAMO_DISABLE")),
        request.model_dump_json(),
    ]
    return cache_folder() / f"probe-{hashlib.sha256(chr(0).join(circumstances).encode()).hexdigest()[:16]}.json"
