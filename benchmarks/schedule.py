"""The schedule's exponent p at tuned learning rates: held-out loss at two D on one rung of the demo.

    python benchmarks/schedule.py            # about six minutes on one core

Prints a table, then the best p. The default of `Schedule.p` is held against it: exits 1 where another p of the grid is
better by more than 0.01 nats at both D.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sixnd.models.config import ModelConfig
from sixnd.sweeps.spec import load_sweep
from sixnd.train.corpus.build import build_corpus
from sixnd.train.loop import train
from sixnd.train.optimizer import OptimizerSettings, beta2_for
from sixnd.train.schedule import Schedule
from sixnd.train.spec import RunSpec

SHAPE = (2, 64)
TOKENS = (499_712, 1_998_848)
EXPONENTS = (0.0, 0.25, 0.5)
RATES = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
TOLERANCE = 0.01


def main() -> int:
    torch.set_num_threads(1)
    corpus = build_corpus(load_sweep("demo").corpus)
    model = ModelConfig.from_shape(*SHAPE, corpus.vocab_size)
    losses: dict[tuple[float, float], list[float]] = {}
    print(f"{SHAPE[0]} layers, width {SHAPE[1]}, batch 2,048; test loss in nats/token at D = {TOKENS}")
    print(f"{'p':>5} {'peak lr':>8}  " + "  ".join(f"{d:>9,}" for d in TOKENS), flush=True)
    with tempfile.TemporaryDirectory() as checkpoints:
        for p in EXPONENTS:
            for lr in RATES:
                losses[p, lr] = [_loss(corpus.hash, model, d, p, lr, Path(checkpoints)) for d in TOKENS]
                print(f"{p:5.2f} {lr:8.1e}  " + "  ".join(f"{x:9.4f}" for x in losses[p, lr]), flush=True)
    best = {p: [min(losses[p, lr][i] for lr in RATES) for i in range(len(TOKENS))] for p in EXPONENTS}
    default = Schedule(warmup_tokens=0).p
    beaten = [
        p for p in EXPONENTS if all(mine < ours - TOLERANCE for mine, ours in zip(best[p], best[default], strict=True))
    ]
    print(
        "best of the rates: "
        + "; ".join(f"p {p:g}: " + ", ".join(f"{x:.4f}" for x in best[p]) for p in EXPONENTS)
        + f"; default p {default:g}"
    )
    return 1 if beaten else 0


def _loss(corpus: str, model: ModelConfig, tokens: int, p: float, lr: float, checkpoints: Path) -> float:
    spec = RunSpec(
        corpus=corpus,
        model=model,
        tokens=tokens,
        seed=0,
        batch_tokens=2048,
        optimizer=OptimizerSettings(lr=lr, beta2=beta2_for(2048)),
        schedule=Schedule(p=p, warmup_tokens=24_985),
    )
    record = train(spec, checkpoints=checkpoints, say=lambda _: None)
    return float("nan") if record.test_loss is None else record.test_loss


if __name__ == "__main__":
    sys.exit(main())
