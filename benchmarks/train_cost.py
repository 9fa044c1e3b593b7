"""What a CPU run costs beside its steps: compilation, memory, and a second worker on the other core.

    python benchmarks/train_cost.py     # about 2 minutes; needs a C++ compiler and two free cores

Compilation: CPU-seconds (compiler included) of the first steps of a 4 x 64 model over later ones, with empty caches, and again in a
new process. Memory: the largest resident size of a process that trains a
6 x 256 model (5M block parameters) at vocabulary 1024, batch 2,048 tokens, for 20 steps. Workers: tokens per second of two
processes of one thread at the same time over one alone, in turns. Evaluation: seconds of the final pass over the demo's held-out text
and of the curve's points, over those of a whole run of the demo's smallest D, 0.5M tokens. Exits 1 where a target is missed.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from sixnd.models.config import ModelConfig
from sixnd.models.transformer import Transformer
from sixnd.sweeps.spec import load_corpus
from sixnd.train.corpus.build import build_corpus, open_corpus
from sixnd.train.curve import curve_steps
from sixnd.train.device import compile_model, native_precision
from sixnd.train.evaluate import HeldOutWindows, evaluate
from sixnd.train.loop import DTYPES, train_step
from sixnd.train.machine import cpu_name, worker_environment
from sixnd.train.optimizer import build_optimizer
from sixnd.train.schedule import Schedule
from sixnd.train.settings import OptimizerSettings
from sixnd.train.spec import RunSpec

BATCH, CONTEXT, VOCABULARY, SMALLEST_D = 2048, 256, 1024, 500_000
COLD_S, WARM_S, MEMORY_MB, TWO_WORKERS, EVALUATION = 15.0, 2.0, 1000.0, 1.9, 0.10
ROUNDS, STEPS = 7, 20


def cpu_seconds() -> float:
    """Of this process and of those it has waited for, such as the compiler."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def serve(layers: str, width: str, corpus: str) -> None:
    """Prints what the first steps and evaluation cost, then trains N steps for each line "N" and answers with the seconds."""
    torch.set_num_threads(1)
    spec = RunSpec(
        corpus="made-up",
        model=ModelConfig.from_shape(int(layers), int(width), VOCABULARY, CONTEXT),
        tokens=BATCH,
        seed=0,
        batch_tokens=BATCH,
        optimizer=OptimizerSettings(lr=1e-3, beta2=0.999),
        schedule=Schedule(warmup_tokens=0),
        precision=native_precision(torch.device("cpu")),
    )
    model = Transformer(spec.model)
    model.initialize(0)
    optimizer = build_optimizer(model, spec.optimizer)
    windows = torch.randint(VOCABULARY, (BATCH // CONTEXT, CONTEXT + 1), generator=torch.Generator().manual_seed(0))

    def steps(number: int) -> tuple[float, float]:
        """Wall and CPU seconds."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        for _ in range(number):
            train_step(model, optimizer, windows, 1e-3, spec, BATCH // CONTEXT)
        return time.perf_counter() - wall, cpu_seconds() - cpu

    started = cpu_seconds()
    compile_model(model, DTYPES[spec.precision], print)
    steps(2)  # the second one compiles too, where strides of gradients differ
    first = cpu_seconds() - started
    compiling = first - 2 * steps(STEPS)[1] / STEPS
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    windows_of_test = HeldOutWindows.of(open_corpus(corpus), CONTEXT)
    evaluating = 0.0
    for looked_at, times in (
        (windows_of_test, 1),
        (windows_of_test.sample(), len(curve_steps(SMALLEST_D // BATCH, BATCH))),
    ):
        seconds = []
        for _ in range(4):  # the first compiles
            started = time.perf_counter()
            evaluate(model, open_corpus(corpus), looked_at, BATCH // CONTEXT, DTYPES[spec.precision])
            seconds.append(time.perf_counter() - started)
        evaluating += times * statistics.median(seconds[1:])
    training = steps(STEPS)[0] / STEPS * (SMALLEST_D / BATCH)
    share = evaluating / (evaluating + training)
    print(json.dumps({"compile_s": compiling, "memory_mb": memory, "evaluation": share}), flush=True)
    for line in sys.stdin:
        print(steps(int(line))[0], flush=True)


class Worker:
    """A process of one thread."""

    def __init__(self, layers: int, width: int, cache: Path, corpus: Path) -> None:
        environment = (
            os.environ
            | worker_environment()
            | {
                "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
                "XDG_CACHE_HOME": str(cache),
            }
        )
        command = [sys.executable, __file__, "--serve", str(layers), str(width), str(corpus)]
        self.child = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.child.stdin is not None and self.child.stdout is not None
        self.stdin, self.stdout = self.child.stdin, self.child.stdout
        self.cost: dict[str, float] = json.loads(self.stdout.readline())

    def ask(self) -> None:
        self.stdin.write(f"{STEPS}\n")
        self.stdin.flush()

    def answer(self) -> float:
        return float(self.stdout.readline())

    def end(self) -> None:
        self.stdin.close()
        self.child.wait()


def two_over_one(one: Worker, two: Worker) -> float:
    """Median over the rounds of the speed of both together, at the same time, over that of one alone."""
    ratios = []
    for _ in range(ROUNDS):
        one.ask()
        alone = one.answer()
        one.ask()
        two.ask()
        ratios.append(alone / one.answer() + alone / two.answer())
    return statistics.median(ratios)


def main() -> int:
    print(f"{cpu_name()}, torch {torch.__version__}")
    corpus = build_corpus(load_corpus("demo")).path
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cold, warm = Worker(4, 64, cache, corpus), Worker(4, 64, cache, corpus)
        for name, worker in (("cold", cold), ("warm", warm)):
            print(f"{f'compile, {name}, CPU-s':>26} {worker.cost['compile_s']:8.2f}", flush=True)
        workers = two_over_one(cold, warm)
        cold.end()
        warm.end()
        print(f"{'two workers over one':>26} {workers:8.2f}", flush=True)
        large = Worker(6, 256, cache, corpus)
        large.end()
    figures = (
        ("compile, cold, CPU-s", cold.cost["compile_s"], COLD_S, cold.cost["compile_s"] <= COLD_S),
        ("compile, warm, CPU-s", warm.cost["compile_s"], WARM_S, warm.cost["compile_s"] <= WARM_S),
        ("memory of a 5M run, MB", large.cost["memory_mb"], MEMORY_MB, large.cost["memory_mb"] <= MEMORY_MB),
        ("two workers over one", workers, TWO_WORKERS, workers >= TWO_WORKERS),
        ("evaluation, share of 0.5M", warm.cost["evaluation"], EVALUATION, warm.cost["evaluation"] <= EVALUATION),
    )
    print()
    for name, figure, target, _ in figures:
        print(f"{name:>26} {figure:8.2f}  target {target:g}")
    missed = [name for name, *_, met in figures if not met]
    key = f"compile {figures[0][1]:.1f} and {figures[1][1]:.1f} CPU-s, {figures[2][1]:.0f} MB, two workers {workers:.2f}x, evaluation {figures[4][1]:.1%}"
    print(key + (f"; MISSED: {', '.join(missed)}" if missed else "; all met"))
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        sys.exit(main())
