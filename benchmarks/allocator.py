"""Training speed of a worker with and without the allocator's settings of `worker_environment`.

    python benchmarks/allocator.py            # about two minutes on one core

Interleaved repeats in fresh one-thread processes, medians. Exits 1 where the settings do not gain at least 10 % on every
shape (glibc only; elsewhere they do nothing).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from sixnd.train.machine import worker_environment

SHAPES = ((2, 32), (2, 64), (4, 96))
REPEATS, STEPS, LEAST_GAIN = 3, 40, 1.1


def main() -> int:
    if sys.argv[1:] == ["--measure"]:
        return measure()
    speeds: dict[tuple[bool, int], list[float]] = {}
    for _ in range(REPEATS):
        for kept in (False, True):
            environment = os.environ | worker_environment()
            for name in [] if kept else [name for name in environment if name.startswith("MALLOC_")]:
                del environment[name]
            command = [sys.executable, __file__, "--measure"]
            printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            for index, line in enumerate(printed.split()):
                speeds.setdefault((kept, index), []).append(float(line))
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    gains = [medians[True, i] / medians[False, i] for i in range(len(SHAPES))]
    print(f"{'layers, width':>14} {'plain tok/s':>12} {'kept tok/s':>12} {'gain':>6}")
    for i, (shape, gain) in enumerate(zip(SHAPES, gains, strict=True)):
        print(f"{shape!s:>14} {medians[False, i]:12,.0f} {medians[True, i]:12,.0f} {gain:5.2f}x")
    print("allocator: gain " + ", ".join(f"{gain:.2f}x" for gain in gains))
    return 0 if min(gains) >= LEAST_GAIN else 1


def measure() -> int:
    """Tokens per second of each shape, one a line."""
    import torch
    from sixnd.models.config import ModelConfig
    from sixnd.models.transformer import Transformer
    from sixnd.train.device import compile_model, native_precision
    from sixnd.train.loop import DTYPES, train_step
    from sixnd.train.optimizer import build_optimizer
    from sixnd.train.schedule import Schedule
    from sixnd.train.settings import OptimizerSettings
    from sixnd.train.spec import RunSpec

    torch.set_num_threads(1)
    for n_layers, d_model in SHAPES:
        config = ModelConfig.from_shape(n_layers, d_model, 1024)
        settings = OptimizerSettings(lr=1e-3, beta2=0.999)
        spec = RunSpec(
            corpus="none",
            model=config,
            tokens=2048,
            seed=0,
            batch_tokens=2048,
            optimizer=settings,
            schedule=Schedule(warmup_tokens=0),
            precision=native_precision(torch.device("cpu")),
        )
        model = Transformer(config)
        model.initialize(0)
        compile_model(model, DTYPES[spec.precision], lambda line: print(line, file=sys.stderr))
        optimizer = build_optimizer(model, settings)
        windows = torch.randint(0, 1024, (8, 257), generator=torch.Generator().manual_seed(0))
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            train_step(model, optimizer, windows, 1e-3, spec, rows=8)
            seconds.append(time.perf_counter() - start)
        print(2048 / statistics.median(seconds[5:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
