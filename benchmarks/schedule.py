"""Three schedules and Muon, each at its own best learning rate: held-out loss at two D on one rung of the demo.

    python benchmarks/schedule.py            # about eight minutes on one core

The schedules are constant with a cooldown (warm-up, stable, decay), inverse square root with a cooldown (the log-log
schedule), and a cosine to 10 % whose length is matched to D, all with AdamW; Muon has the first of them. Each gets the
same rates, and at each D the best of them.

Prints a table, then one line with all at their best. The default schedule is held against the others: exits 1
where one of them is better by more than 0.01 nats at both D.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sixnd.models.config import ModelConfig
from sixnd.sweeps.spec import load_sweep
from sixnd.train.corpus.build import build_corpus
from sixnd.train.device import native_precision, pick_device
from sixnd.train.loop import train
from sixnd.train.schedule import Cosine, Schedule
from sixnd.train.settings import OptimizerSettings, beta2_for
from sixnd.train.spec import RunSpec

SHAPE = (2, 64)
TOKENS = (499_712, 1_998_848)
BATCH = 2048
WARMUP = 24_985  # 5 % of the smallest D, for all three
SCHEDULES = {
    "constant": Schedule(warmup_tokens=WARMUP),
    "inverse sqrt": Schedule(p=0.5, warmup_tokens=WARMUP),
    "cosine": Cosine(warmup_tokens=WARMUP),
}
DEFAULT = "constant"
RECIPES = {name: ("adamw", schedule) for name, schedule in SCHEDULES.items()}
RECIPES["muon, constant"] = ("muon", SCHEDULES[DEFAULT])
RATES = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
TOLERANCE = 0.01

Losses = dict[tuple[str, float], list[float]]


def main() -> int:
    torch.set_num_threads(1)
    corpus = build_corpus(load_sweep("demo").corpus)
    model = ModelConfig.from_shape(*SHAPE, corpus.vocab_size)
    losses: Losses = {}
    print(f"{SHAPE[0]} layers, width {SHAPE[1]}, batch {BATCH:,}; test loss in nats/token at each D")
    print(f"{'schedule':>14} {'peak lr':>8}  " + "  ".join(f"{d:>9,}" for d in TOKENS), flush=True)
    with tempfile.TemporaryDirectory() as checkpoints:
        for name in RECIPES:
            for lr in RATES:
                losses[name, lr] = [_loss(corpus.hash, model, d, name, lr, Path(checkpoints)) for d in TOKENS]
                print(f"{name:>14} {lr:8.1e}  " + "  ".join(f"{x:9.4f}" for x in losses[name, lr]), flush=True)
    best = {name: [_best(losses, name, i) for i in range(len(TOKENS))] for name in RECIPES}
    print(
        "best rate at each D: "
        + "; ".join(f"{name} " + ", ".join(map(_in_words, found)) for name, found in best.items())
    )
    return 1 if any(_beats(best[name], best[DEFAULT]) for name in SCHEDULES) else 0


def _loss(corpus: str, model: ModelConfig, tokens: int, name: str, lr: float, checkpoints: Path) -> float:
    optimizer, schedule = RECIPES[name]
    spec = RunSpec(
        corpus=corpus,
        model=model,
        tokens=tokens,
        seed=0,
        batch_tokens=BATCH,
        optimizer=OptimizerSettings(name=optimizer, lr=lr, beta2=beta2_for(BATCH)),
        schedule=schedule,
        precision=native_precision(pick_device()),
    )
    record = train(spec, checkpoints=checkpoints, listener=lambda _: None, say=lambda _: None)
    return float("inf") if record.test_loss is None else record.test_loss


def _best(losses: Losses, name: str, column: int) -> tuple[float, float]:
    """Loss and rate of the best rate at one D."""
    return min((losses[name, lr][column], lr) for lr in RATES)


def _in_words(best: tuple[float, float]) -> str:
    loss, lr = best
    return f"{loss:.4f} ({lr:g}{', the edge of the rates' if lr in (RATES[0], RATES[-1]) else ''})"


def _beats(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> bool:
    return all(mine < theirs - TOLERANCE for (mine, _), (theirs, _) in zip(one, other, strict=True))


if __name__ == "__main__":
    sys.exit(main())
