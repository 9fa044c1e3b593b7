"""The default peak learning rate against half and twice of it, on three rungs of the demo at two D.

    python benchmarks/learning_rate.py            # about six minutes on one core

Prints a table of test losses. Exits 1 where half or twice the default beats it by more than 0.02 nats at both D.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.precision import in_precision
from sixnd.sweeps.spec import load_sweep
from sixnd.train.corpus.build import build_corpus
from sixnd.train.device import native_precision, pick_device
from sixnd.train.loop import train
from sixnd.train.settings import peak_lr

SHAPES = "[[2,32],[2,64],[4,96]]"
FACTORS = (0.5, 1.0, 2.0)
TOLERANCE = 0.02


def main() -> int:
    torch.set_num_threads(1)
    overrides = (f"shapes={SHAPES}", 'tokens=["0.5M","2M"]')
    sweep = in_precision(load_sweep("demo", overrides), native_precision(pick_device()))
    plan = make_plan(sweep, build_corpus(sweep.corpus))
    print(f"{'N no emb.':>9} {'peak lr':>8}  " + "  ".join(f"D = {run.tokens:,}" for run in plan.trunks[0].runs))
    beaten: list[str] = []
    with tempfile.TemporaryDirectory() as checkpoints:
        for trunk in plan.trunks:
            n = trunk.runs[0].model.n_non_embedding
            losses: dict[float, list[float]] = {}
            for factor in FACTORS:
                lr = factor * peak_lr(n)
                specs = [
                    r.model_copy(update={"optimizer": r.optimizer.model_copy(update={"lr": lr})}) for r in trunk.runs
                ]
                records = [train(spec, checkpoints=Path(checkpoints), say=lambda _: None) for spec in specs]
                losses[factor] = [r.test_loss if r.test_loss is not None else float("inf") for r in records]
                print(f"{n:9,} {lr:8.1e}  " + "  ".join(f"{x:11.4f}" for x in losses[factor]), flush=True)
            beaten += [
                f"N = {n:,} wants {factor:g} x the default"
                for factor in (0.5, 2.0)
                if all(x < y - TOLERANCE for x, y in zip(losses[factor], losses[1.0], strict=True))
            ]
    print(
        "default peak lr: "
        + ("; ".join(beaten) or f"no rung gains {TOLERANCE} nats at both D from half or twice of it")
    )
    return 1 if beaten else 0


if __name__ == "__main__":
    sys.exit(main())
