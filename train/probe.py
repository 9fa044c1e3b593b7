"""How fast this machine trains a few shapes, with every slot busy: `python -m sixnd.train.probe`, request and answer as JSON.

It runs in its own process, so that a driver that plans and waits never holds torch. Each shape is timed eagerly, on a CPU with our
own C++ where that takes it (`train/native`), which is how it is trained. For all others compiling takes longer than all of that. Compilation
saves passes over activations and none of the matrix products: on a CPU SAVED of what a profile finds outside products; on a GPU it is
measured at the middle width and carried over to the others, in proportion to the width. LOG.md has the figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from pydantic import TypeAdapter
from torch.profiler import ProfilerActivity, profile

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
from .machine import fuses, has_compiler, usable_cores, worker_environment
from .memory import most_stacked, training_bytes
from .native.fuse import fuse_model
from .optimizer import build_optimizer
from .ranks import ALONE
from .schedule import Schedule
from .settings import OptimizerSettings, Precision
from .spec import RunSpec
from .speed import Probed, ProbeRequest
from .stacked import StackedStep

LEAST_REPEATS, MOST_REPEATS = 2, 50
SAVED = 0.5  # by compilation, of a CPU's seconds outside products (LOG.md)
PRODUCTS = frozenset({"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"})
PROFILED_S = 0.2  # of steps, at least one
DEPTH = 3  # against a depth of 1, of the models that show what compilation saves
MOST_GAIN = 3.0  # of compilation; 2.2 was the most seen, in the smallest models
MOST_TIMED = 5
LARGEST_ON_CPU = 3_000_000  # parameters: a pass of a larger model takes seconds there, and its FLOP/s are much the same
SHARE_OF_GPU = 0.8  # of its memory, which a model that is timed may take


Prepare = Callable[[Transformer, torch.dtype, Callable[[str], None]], bool]  # `compile_model`, or less


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
    def of(cls, config: ModelConfig, request: ProbeRequest, device: torch.device, prepare: Prepare) -> Trial:
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
            _stacked_step([spec] * request.alike, rows, device, prepare)
            if request.alike > 1
            else _one_step(spec, rows, device, prepare)
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

    def outside_products(self) -> float:
        """Share of a step's seconds that a CPU spends on anything but matrix products."""
        seconds = 0.0
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            while seconds < PROFILED_S:
                seconds += self.seconds()
        rows = (row for row in profiled.key_averages() if row.key in PRODUCTS)
        products_us: float = sum(row.self_cpu_time_total for row in rows)
        return 1 - products_us / 1e6 / seconds


def as_it_is(*_: object) -> bool:
    """In place of `compile_model` or `fuse_model`: neither."""
    return False


def _one_step(spec: RunSpec, rows: int, device: torch.device, prepare: Prepare) -> Callable[[], object]:
    model = Transformer(spec.model).to(device)
    model.initialize(spec.seed)
    prepare(model, DTYPES[spec.precision], lambda _: None)
    state = TrainState(model, build_optimizer(model, spec.optimizer), LossWatch.of(spec))
    step, windows_WT = open_step(spec, state, rows, ALONE), torch.zeros(rows, spec.model.context + 1, dtype=torch.int64)
    return lambda: step(windows_WT, spec.optimizer.lr)


def _stacked_step(specs: Sequence[RunSpec], rows: int, device: torch.device, prepare: Prepare) -> Callable[[], object]:
    stack = StackedTransformer(specs[0].model, len(specs)).to(device)
    stack.initialize_each([spec.seed for spec in specs])
    prepare(stack, DTYPES[specs[0].precision], lambda _: None)
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
        compiles=compiled and (device.type == "cuda" or not all(map(fuses, request.models))),
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
    """Tokens/s of one worker for each of the models, while every other core that would train is busy too."""
    if device.type == "cuda":
        return speeds_on_gpu(request, device, compiled)
    companions = [_companion(request.precision) for _ in range(min(slots, usable_cores()) - 1)]
    try:
        return speeds_on_cpu(request, device, compiled)
    finally:
        for companion in companions:
            companion.kill()
            companion.wait()


def speeds_on_cpu(request: ProbeRequest, device: torch.device, compiled: bool) -> tuple[float, ...]:
    """Of all models in turns, fused or, less SAVED of what they spend outside products, eagerly."""
    trials = [Trial.of(model, request, device, fuse_model if compiled else as_it_is) for model in request.models]
    seconds = [median(times) for times in _timed(trials, request.seconds)]
    shortened = [compiled and not fuses(model) for model in request.models]
    left = [
        1 - SAVED * trial.outside_products() if shorter else 1.0
        for trial, shorter in zip(trials, shortened, strict=True)
    ]
    return tuple(trial.tokens / (s * share) for trial, s, share in zip(trials, seconds, left, strict=True))


def speeds_on_gpu(request: ProbeRequest, device: torch.device, compiled: bool) -> tuple[float, ...]:
    """Of one model after another, for together they may not fit, eagerly; less what compilation saves at the middle width."""
    saved = saved_by_compilation(trials_of_compilation(request, device), request) if compiled else Saved()
    measured = []
    for model in request.models:
        release_memory()
        trial = Trial.of(model, request, device, as_it_is)
        (times,) = _timed([trial], request.seconds / len(request.models))
        measured.append(saved.applied(model, trial.tokens / median(times)))
        del trial
    return tuple(measured)


def trials_of_compilation(request: ProbeRequest, device: torch.device) -> list[Trial]:
    """DEPTH blocks of the middle width and one block, compiled; then the same two, eager."""
    middle = request.models[len(request.models) // 2]
    models = [middle.model_copy(update={"n_layers": depth}) for depth in (DEPTH, 1)]
    return [Trial.of(model, request, device, how) for how in (compile_model, as_it_is) for model in models]


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


def _companion(precision: Precision) -> subprocess.Popen[bytes]:
    """Another process of this module, in the environment of a worker, which keeps a core as busy as one."""
    command = [sys.executable, "-m", "sixnd.train.probe", precision]
    return subprocess.Popen(command, env=os.environ | worker_environment(), stdin=subprocess.DEVNULL)


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


def main(arguments: list[str]) -> None:
    """A probe, or with a precision one of the processes that it starts and kills."""
    torch.set_num_threads(1)
    if arguments:
        _keep_busy(TypeAdapter(Precision).validate_python(arguments[0]))
    else:
        print(probe(ProbeRequest.model_validate_json(sys.stdin.readline())).model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1:])
