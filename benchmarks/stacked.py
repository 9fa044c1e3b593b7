"""Stacked runs against separate ones: the same losses, and how much of a GPU each way of stepping uses.

    python benchmarks/stacked.py             # under a minute on CPU; about ten on a GPU, most of it compilation

Everywhere: K = 4 runs at 50k parameters, two seeds by two learning rates, 50 steps in fp32, eagerly: the largest relative
difference between a stacked loss and that of its separate run, and both speeds, measured in turns. Exits 1 where the
difference is beyond 1e-4.

On a CUDA device also tokens/s and model FLOPs utilisation in bf16 (exact FLOPs over the measured peak of a matrix product)
of an eager step, of the compiled step as one CUDA graph, and of stacks of 8 and 32 as one graph. The text is made up.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.ladder import shape_for
from sixnd.models.stack import StackedTransformer
from sixnd.models.transformer import Transformer
from sixnd.train.device import compile_model, device_name, micro_batch_rows, pick_device
from sixnd.train.graph import GraphedStep, ResidentStream
from sixnd.train.loop import DTYPES, train_step
from sixnd.train.optimizer import build_optimizer
from sixnd.train.peak import gemm_peak, mfu
from sixnd.train.schedule import Schedule
from sixnd.train.settings import OptimizerSettings, beta2_for
from sixnd.train.spec import RunSpec
from sixnd.train.stacked import StackedStep
from torch import Tensor

VOCABULARY, CONTEXT = 1024, 256
STEPS, TOLERANCE = 50, 1e-4
SIZES = {50_000: 2_048, 200_000: 4_096, 1_000_000: 8_192, 10_000_000: 32_768, 100_000_000: 131_072}  # batch tokens
STACKS = (8, 32)
WARM, TIMED, REPEATS = 5, 20, 3
BYTES_PER_PARAMETER = 18  # fp32 weight, gradient and two moments, and the bf16 copy
SHARE_FOR_PARAMETERS = 0.6

Step = Callable[[int], Tensor]


def main() -> int:
    device = pick_device()
    torch.set_num_threads(1)
    print(f"{device_name(device)}, torch {torch.__version__}, context {CONTEXT}, vocabulary {VOCABULARY}", flush=True)
    worst, gain = stacked_against_separate(device)
    key = (
        f"K = 4 at 50k: largest relative loss difference {worst:.1e} (limit {TOLERANCE:g}), speed {gain:.2f}x separate"
    )
    if device.type == "cuda":
        key += f"; {speed_table(device)}"
    else:
        print("no CUDA device here: eager, graph and stacks of 8 and 32 were not measured")
    print(key)
    return 0 if worst < TOLERANCE else 1


def run_spec(model: ModelConfig, batch_tokens: int, seed: int, lr: float, precision: str) -> RunSpec:
    return RunSpec.model_validate(
        {
            "corpus": "made-up",
            "model": model,
            "tokens": batch_tokens * STEPS,
            "seed": seed,
            "batch_tokens": batch_tokens,
            "optimizer": OptimizerSettings(lr=lr, beta2=beta2_for(batch_tokens)),
            "schedule": Schedule(warmup_tokens=0, cooldown=0),
            "precision": precision,
        }
    )


def made_up_stream(seeds: Sequence[int], device: torch.device, n_tokens: int) -> ResidentStream:
    """Text in which each token has four successors: something to learn."""
    rng = np.random.default_rng(0)
    successors = rng.integers(VOCABULARY, size=(VOCABULARY, 4))
    tokens, picks = np.zeros(n_tokens, np.int16), rng.integers(4, size=n_tokens)
    for i in range(1, n_tokens):
        tokens[i] = successors[tokens[i - 1], picks[i]]
    n_windows = (n_tokens - 1) // CONTEXT
    order = np.stack([np.random.default_rng(seed).permutation(n_windows) for seed in seeds])
    return ResidentStream(torch.from_numpy(tokens).to(device), torch.from_numpy(order).to(device), CONTEXT)


def one_model(spec: RunSpec, stream: ResidentStream, row: int, device: torch.device, graph: bool) -> Step:
    """Step of a single model on the stream's row; as a graph, compiled too."""
    model = Transformer(spec.model).to(device)
    model.initialize(spec.seed)
    optimizer = build_optimizer(model, spec.optimizer)
    rows = micro_batch_rows(spec.model, spec.batch_tokens, device, spec.precision)

    def eager(windows: Tensor, lr: float | Tensor) -> Tensor:
        return train_step(model, optimizer, windows, lr, spec, rows)[0]

    if not graph:
        return lambda n: eager(stream.batch(n * spec.batch_tokens, spec.batch_tokens)[row], spec.optimizer.lr)
    compile_model(model, DTYPES[spec.precision], print)
    graphed = GraphedStep(eager, torch.tensor(spec.optimizer.lr, device=device), optimizer)
    return lambda n: graphed(stream.batch(n * spec.batch_tokens, spec.batch_tokens)[row], 1.0)


def stack_of(specs: Sequence[RunSpec], stream: ResidentStream, device: torch.device, compiled: bool) -> Step:
    """Step of all models together, as a graph where the device has them; returns their losses."""
    spec, n_models = specs[0], len(specs)
    stack = StackedTransformer(spec.model, n_models).to(device)
    stack.initialize_each([spec.seed for spec in specs])
    if compiled:
        compile_model(stack, DTYPES[spec.precision], print)
    rows = micro_batch_rows(spec.model, spec.batch_tokens, device, spec.precision, n_models)
    peak_lr = torch.tensor([spec.optimizer.lr for spec in specs], dtype=torch.float64, device=device)
    graphed = GraphedStep(StackedStep(stack, specs, rows), peak_lr)
    return lambda n: graphed(stream.batch(n * spec.batch_tokens, spec.batch_tokens), 1.0)[0]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def stacked_against_separate(device: torch.device) -> tuple[float, float]:
    """Largest relative difference of the losses after any of the first STEPS steps, and the speed of the stack over separate."""
    model = ModelConfig.from_shape(*shape_for(50_000), VOCABULARY, CONTEXT)
    batch = SIZES[50_000]
    specs = [run_spec(model, batch, seed, lr, "fp32") for seed in (0, 1) for lr in (0.004, 0.016)]
    stream = made_up_stream([spec.seed for spec in specs], device, batch * STEPS + 1)
    stacked = stack_of(specs, stream, device, compiled=False)
    separate = [one_model(spec, stream, row, device, graph=False) for row, spec in enumerate(specs)]
    together, apart = [], []
    times: dict[str, list[float]] = {"stacked": [], "separate": []}
    for n in range(STEPS):
        times["stacked"].append(seconds(lambda n=n: together.append(stacked(n).tolist()), device))  # type: ignore[misc]
        times["separate"].append(seconds(lambda n=n: apart.append([float(step(n)) for step in separate]), device))  # type: ignore[misc]
    differences = np.abs(np.array(together) / np.array(apart) - 1)
    print(
        f"N {model.n_total:,} ({model.n_layers} x {model.d_model}), batch {batch:,} tokens, fp32, eager, {STEPS} steps"
    )
    print(f"{'seed':>4} {'lr':>6} {'separate':>9} {'stacked':>9} {'difference, last':>16} {'largest':>9}")
    for m, spec in enumerate(specs):
        print(
            f"{spec.seed:>4} {spec.optimizer.lr:>6g} {apart[-1][m]:>9.5f} {together[-1][m]:>9.5f}"
            f" {differences[-1, m]:>16.1e} {differences[:, m].max():>9.1e}"
        )
    medians = {name: statistics.median(values[WARM:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name}: {len(specs) * batch / median:,.0f} tokens/s")
    return float(differences.max()), medians["separate"] / medians["stacked"]


def speed_table(device: torch.device) -> str:
    """Prints tokens/s and MFU of every size and way; returns the smallest size's in words."""
    peak = gemm_peak(device, torch.bfloat16)
    names = ("eager", "graph", *(f"stacked {k}" for k in STACKS))
    print(f"\nbf16; measured peak of a bf16 matrix product {peak / 1e12:,.0f} TFLOP/s")
    print(
        f"{'N without embedding':>20} {'batch':>8}  " + "  ".join(f"{name + ': tokens/s, MFU':>27}" for name in names)
    )
    smallest = ""
    for target, batch in SIZES.items():
        model = ModelConfig.from_shape(*shape_for(target), VOCABULARY, CONTEXT)
        speeds = [
            speed(model, batch, k, graph, device) for k, graph in [(1, False), (1, True), *((k, True) for k in STACKS)]
        ]
        cells = ["does not fit" if s is None else f"{s:,.0f} {mfu(s, model, peak):>8.2%}" for s in speeds]
        print(f"{model.n_non_embedding:>20,} {batch:>8,}  " + "  ".join(f"{cell:>27}" for cell in cells), flush=True)
        smallest = smallest or "MFU at 50k " + ", ".join(
            f"{name} {mfu(s, model, peak):.2%}" for name, s in zip(names, speeds, strict=True) if s
        )
    return smallest


def speed(model: ModelConfig, batch: int, n_models: int, graph: bool, device: torch.device) -> float | None:
    """Median tokens/s of all models together; None where their parameters take too much of the device."""
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    if n_models * model.n_total * BYTES_PER_PARAMETER > SHARE_FOR_PARAMETERS * free:
        return None
    specs = [run_spec(model, batch, seed, 1e-3, "bf16") for seed in range(n_models)]
    n_steps = WARM + TIMED * REPEATS
    n_tokens = batch * n_steps + 1
    tokens = torch.randint(VOCABULARY, (n_tokens,), device=device, dtype=torch.int16)  # any text takes as long
    order = torch.arange((n_tokens - 1) // CONTEXT, device=device).expand(n_models, -1)
    stream = ResidentStream(tokens, order, CONTEXT)
    step = one_model(specs[0], stream, 0, device, graph) if n_models == 1 else stack_of(specs, stream, device, graph)
    for n in range(WARM):
        step(n)
    times = [
        seconds(lambda first=first: [step(n) for n in range(first, first + TIMED)], device)  # type: ignore[misc]
        for first in range(WARM, n_steps, TIMED)
    ]
    return n_models * batch * TIMED / statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
