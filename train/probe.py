"""How fast this machine trains a few shapes, with every slot busy: `python -m sixnd.train.probe`, request and answer as JSON.

It runs in its own process, so that a driver that plans and waits never holds torch. Each shape is timed eagerly, for compiling one
takes longer than all of that. What compilation saves is measured at the middle width alone, which is compiled on one core while
the shapes are timed on another, and carried over to the rest: it saves passes over activations, whose time follows their
width (LOG.md has the figures). The code stays in torch's cache, so that a sweep which trains that width finds it there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from ..models.config import ModelConfig
from ..models.stack import StackedTransformer
from ..models.transformer import Transformer
from .checkpoint import TrainState
from .device import (
    compile_model,
    device_name,
    micro_batch_rows,
    native_precision,
    pick_device,
    release_memory,
    usual_slots,
)
from .divergence import LossWatch
from .graph import WARM_STEPS, GraphedStep
from .loop import DTYPES, open_step
from .machine import has_compiler, usable_cores, worker_environment
from .memory import most_stacked, training_bytes
from .optimizer import build_optimizer
from .ranks import ALONE
from .schedule import Schedule
from .settings import OptimizerSettings, Precision
from .spec import RunSpec
from .speed import Probed, ProbeRequest
from .stacked import StackedStep

LEAST_REPEATS, MOST_REPEATS = 3, 50
DEPTH = 3  # against a depth of 1, of the models that show what compilation saves
MOST_GAIN = 3.0  # of compilation; 2.2 was the most seen, in the smallest models
MOST_TIMED = 5
LARGEST_ON_CPU = 5_000_000  # parameters: a pass of a larger model takes seconds there, and its FLOP/s are much the same
SHARE_OF_GPU = 0.8  # of its memory, which a model that is timed may take


@dataclass(frozen=True)
class Saved:
    """Seconds that compilation saves on each token: outside the blocks, and in a block for each unit of its width."""

    elsewhere: float = 0.0
    block: float = 0.0

    def applied(self, model: ModelConfig, eager_tokens_per_s: float) -> float:
        """Tokens/s of the compiled model."""
        eager = 1 / eager_tokens_per_s
        saved = self.elsewhere + self.block * model.n_layers * model.d_model
        return 1 / max(eager / MOST_GAIN, eager - saved)


@dataclass(frozen=True)
class Trial:
    """A model, or a stack of it, that can be trained for a step, as runs train it, and the tokens of such a step."""

    step: Callable[[], None]
    tokens: int

    @classmethod
    def of(cls, config: ModelConfig, request: ProbeRequest, device: torch.device, compiled: bool) -> Trial:
        """Of `request.alike` such models stacked, where that is more than one."""
        rows = micro_batch_rows(config, request.batch_tokens, device, request.precision, request.alike)
        tokens = rows * config.context
        optimizer, schedule = OptimizerSettings(lr=1e-3, beta2=0.99), Schedule(warmup_tokens=0)
        spec = RunSpec(
            corpus="",
            model=config,
            tokens=tokens,
            seed=0,
            batch_tokens=tokens,
            optimizer=optimizer,
            schedule=schedule,
            precision=request.precision,
        )
        train = (
            _stacked_step([spec] * request.alike, rows, device, compiled)
            if request.alike > 1
            else _one_step(spec, rows, device, compiled)
        )

        def step() -> None:
            train()
            if device.type == "cuda":
                torch.cuda.synchronize()

        for _ in range(WARM_STEPS + 1 if device.type == "cuda" else 1):
            step()
        return cls(step, request.alike * tokens)

    def seconds(self) -> float:
        """Of one step."""
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start


def _one_step(spec: RunSpec, rows: int, device: torch.device, compiled: bool) -> Callable[[], object]:
    model = Transformer(spec.model).to(device)
    model.initialize(spec.seed)
    if compiled:
        compile_model(model, lambda _: None)
    state = TrainState(model, build_optimizer(model, spec.optimizer), LossWatch.of(spec))
    step, windows_WT = open_step(spec, state, rows, ALONE), torch.zeros(rows, spec.model.context + 1, dtype=torch.int64)
    return lambda: step(windows_WT, spec.optimizer.lr)


def _stacked_step(specs: Sequence[RunSpec], rows: int, device: torch.device, compiled: bool) -> Callable[[], object]:
    stack = StackedTransformer(specs[0].model, len(specs)).to(device)
    stack.initialize_each([spec.seed for spec in specs])
    if compiled:
        compile_model(stack, lambda _: None)
    peak_lr_M = torch.tensor([spec.optimizer.lr for spec in specs], dtype=torch.float64, device=device)
    step = GraphedStep(StackedStep(stack, specs, rows), peak_lr_M)
    windows_MWT = torch.zeros(len(specs), rows, specs[0].model.context + 1, dtype=torch.int64)
    return lambda: step(windows_MWT, 1.0)


def probe(request: ProbeRequest) -> Probed:
    """The device, and the speed of each shape that is asked for."""
    torch.set_num_threads(1)
    device = pick_device()
    slots = request.slots or usual_slots()
    compiled = has_compiler() and os.environ.get("TORCHDYNAMO_DISABLE") != "1"
    memory = _memory_bytes(device)
    alike = 1
    if device.type == "cuda":  # elsewhere runs are not stacked
        alike = most_stacked(request.models, request.batch_tokens, request.precision, memory, request.alike)
    request = request.model_copy(update={"alike": alike})
    request = request.model_copy(update={"models": spread(request, device, memory)})
    return Probed(
        device=device_name(device),
        kind="cuda" if device.type == "cuda" else "cpu",
        memory_bytes=memory,
        slots=slots,
        gpus=torch.cuda.device_count() if device.type == "cuda" else 0,
        precision=native_precision(device),
        compiled=compiled,
        stacked=alike,
        models=request.models,
        tokens_per_s=speeds(request, device, slots, compiled) if request.models else (),
    )


def spread(request: ProbeRequest, device: torch.device, memory_bytes: int) -> tuple[ModelConfig, ...]:
    """At most MOST_TIMED of the models, evenly over the ranks by N; none that is too large for the device unless all are."""

    def timed(model: ModelConfig) -> bool:
        if device.type == "cuda":
            return (
                training_bytes(model, request.batch_tokens, "cuda", request.precision, request.alike)
                <= SHARE_OF_GPU * memory_bytes
            )
        return model.n_total <= LARGEST_ON_CPU

    small = [model for model in request.models if timed(model)] or request.models[:1]
    last, most = len(small) - 1, min(MOST_TIMED, len(small))
    return tuple(small[round(i * last / max(1, most - 1))] for i in range(most))


def speeds(request: ProbeRequest, device: torch.device, slots: int, compiled: bool) -> tuple[float, ...]:
    """Eager ones, measured by another process on another core where there is one, and what compilation adds to them."""
    others = 0 if device.type == "cuda" else min(slots, usable_cores()) - 1
    helpers = [_start("--time", request)] if others else []
    helpers += [_start("--companion", request) for _ in range(others - compiled)]
    try:
        trials = trials_of_compilation(request, device) if compiled else []
        eager = _answer(helpers[0]) if helpers else eager_speeds(request, device)
        if helpers:
            _tell(helpers[0], "\n")
        saved = saved_by_compilation(trials, request) if compiled else Saved()
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
    return tuple(saved.applied(model, speed) for model, speed in zip(request.models, eager, strict=True))


def eager_speeds(request: ProbeRequest, device: torch.device) -> list[float]:
    """Tokens/s of each shape; on a GPU one after another, for together they may not fit."""
    groups = [(model,) for model in request.models] if device.type == "cuda" else [request.models]
    measured = []
    for group in groups:
        measured += _eager_speeds_of(group, request, request.seconds / len(groups), device)
        release_memory()
    return measured


def _eager_speeds_of(
    models: Sequence[ModelConfig], request: ProbeRequest, seconds: float, device: torch.device
) -> list[float]:
    trials = [Trial.of(model, request, device, compiled=False) for model in models]
    took = _timed(trials, seconds)
    return [trial.tokens / median(times) for trial, times in zip(trials, took, strict=True)]


def trials_of_compilation(request: ProbeRequest, device: torch.device) -> list[Trial]:
    """DEPTH blocks of the middle width and one block, compiled; then the same two, eager."""
    middle = request.models[len(request.models) // 2]
    models = [middle.model_copy(update={"n_layers": depth}) for depth in (DEPTH, 1)]
    return [Trial.of(model, request, device, how) for how in (True, False) for model in models]


def saved_by_compilation(trials: Sequence[Trial], request: ProbeRequest) -> Saved:
    """From `trials_of_compilation`."""
    # The fastest of each, for noise only adds, and small differences are looked for.
    deep, shallow, eager_deep, eager_shallow = (min(times) for times in _timed(trials, request.seconds / 4))
    block = ((eager_deep - deep) - (eager_shallow - shallow)) / (DEPTH - 1)
    elsewhere, tokens = eager_shallow - shallow - block, trials[0].tokens
    return Saved(elsewhere=elsewhere / tokens, block=block / tokens / request.models[len(request.models) // 2].d_model)


def _timed(trials: Sequence[Trial], seconds: float) -> list[list[float]]:
    """Seconds of the steps of each, in turns, so that whatever slows the machine for a while slows all alike."""
    took: list[list[float]] = [[] for _ in trials]
    deadline = time.perf_counter() + seconds
    while len(took[0]) < LEAST_REPEATS or (len(took[0]) < MOST_REPEATS and time.perf_counter() < deadline):
        for times, trial in zip(took, trials, strict=True):
            times.append(trial.seconds())
    return took


def _start(role: str, request: ProbeRequest) -> subprocess.Popen[str]:
    """Another process of this module, in the environment of a worker."""
    command, environment = [sys.executable, "-m", "sixnd.train.probe", role], os.environ | worker_environment()
    started = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _tell(started, request.model_dump_json() + "\n")
    return started


def _tell(helper: subprocess.Popen[str], words: str) -> None:
    assert helper.stdin is not None
    helper.stdin.write(words)
    helper.stdin.flush()


def _answer(helper: subprocess.Popen[str]) -> list[float]:
    assert helper.stdout is not None
    line = helper.stdout.readline()
    if not line:
        raise RuntimeError(f"timing the models failed with exit code {helper.wait()}")
    measured: list[float] = json.loads(line)
    return measured


def _keep_busy(precision: Precision) -> None:
    """Multiplies, as a worker would, until the probe that started this is gone."""
    parent, matrix = os.getppid(), torch.ones(512, 512, dtype=DTYPES[precision])
    while os.getppid() == parent:
        for _ in range(20):
            matrix = (matrix @ matrix).clamp(-1, 1)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def main(role: str) -> None:
    """A probe, or one of the processes that it starts and kills."""
    torch.set_num_threads(1)
    request = ProbeRequest.model_validate_json(sys.stdin.readline())
    if role == "--companion":
        _keep_busy(request.precision)
        return
    if role == "--time":
        print(json.dumps(eager_speeds(request, pick_device())), flush=True)
        sys.stdin.readline()  # until then the probe compiles, which a busy core beside it would slow down
        _keep_busy(request.precision)
        return
    print(probe(request).model_dump_json())


if __name__ == "__main__":
    main(sys.argv[-1])
