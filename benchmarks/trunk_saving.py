"""What a shared trunk saves, and what it costs in loss: D doubling over five points, branched and as separate runs.

    python benchmarks/trunk_saving.py                    # about five minutes on one core
    python benchmarks/trunk_saving.py --seeds 0 1 2 3

Branched runs are those of one sweep over all D. Separate runs are those of five sweeps of one D each, as they would be
trained without trunks: from their first step, with the warm-up of their own D. The compute of training steps is counted in
tokens, which is what the plan prints, and measured in seconds at each run's own speed; evaluation is the same for both.

The noise of a seed is the standard deviation of the loss over seeds, pooled over D and both ways. Exits 1 where the trunk
saves less than 1.6x, in tokens or in seconds, or where the mean losses at a D differ by more than two standard errors.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from sixnd.sweeps.planning.plan import Plan, make_plan
from sixnd.sweeps.precision import in_precision
from sixnd.sweeps.spec import SweepSpec, load_sweep
from sixnd.train.corpus.build import build_corpus
from sixnd.train.corpus.store import Corpus
from sixnd.train.device import native_precision, pick_device
from sixnd.train.loop import train
from sixnd.train.machine import worker_environment

SHAPE = (2, 32)
TOKENS = tuple(2048 * 122 * 2**doubling for doubling in range(5))  # 0.25M to 4M, whole batches and whole cooldowns
AT_LEAST, STANDARD_ERRORS = 1.6, 2.0

Losses = dict[int, list[float]]  # by D, one a seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    seeds = parser.parse_args().seeds
    if len(seeds) < 2:
        parser.error("--seeds: the noise of a seed takes at least two")
    if not worker_environment().items() <= os.environ.items():  # the allocator reads it when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | worker_environment())
    torch.set_num_threads(1)
    demo = in_precision(load_sweep("demo", ("train.context=128",)), native_precision(pick_device()))
    corpus = build_corpus(demo.corpus)
    sweeps = [_sweep(demo, list(TOKENS), seed) for seed in seeds]
    print(f"{SHAPE[0]} layers, width {SHAPE[1]}, seeds {seeds}; test loss in nats/token", flush=True)
    branched: Losses = {d: [] for d in TOKENS}
    separate: Losses = {d: [] for d in TOKENS}
    seconds = {"branched": 0.0, "separate": 0.0}
    for sweep in sweeps:  # one way after the other for each seed, so that a slow minute of the machine meets both
        seconds["branched"] += _train(make_plan(sweep, corpus), corpus, branched)
        for d in TOKENS:
            alone = make_plan(sweep.model_copy(update={"tokens": [d]}), corpus)
            seconds["separate"] += _train(alone, corpus, separate)
    noise = math.sqrt(
        statistics.mean(statistics.variance(losses[d]) for losses in (branched, separate) for d in TOKENS)
    )
    standard_error = noise * math.sqrt(2 / len(seeds))
    worst = _print_losses(branched, separate, noise)
    saved, faster = make_plan(sweeps[0], corpus).trunk_saving, seconds["separate"] / seconds["branched"]
    held = saved >= AT_LEAST and faster >= AT_LEAST and worst <= STANDARD_ERRORS * standard_error
    print(
        f"trunk saving: {saved:.2f}x of the tokens, {faster:.2f}x of the seconds of steps ({seconds['separate']:.0f} s"
        f" to {seconds['branched']:.0f} s); losses differ by at most {worst:.4f}, seed noise {noise:.4f},"
        f" standard error of a difference {standard_error:.4f}: {'met' if held else 'MISSED'}"
    )
    return 0 if held else 1


def _sweep(demo: SweepSpec, tokens: list[int], seed: int) -> SweepSpec:
    return demo.model_copy(update={"shapes": [SHAPE], "tokens": tokens, "seeds": [seed]})


def _train(plan: Plan, corpus: Corpus, losses: Losses) -> float:
    """Trains a plan's runs, adds their losses, and returns the seconds of their steps."""
    seconds = 0.0
    with tempfile.TemporaryDirectory() as checkpoints:
        for trunk in plan.trunks:
            trained = trunk.trained_tokens()
            for run in trunk.runs:
                record = train(
                    run,
                    corpora=corpus.path.parent,
                    checkpoints=Path(checkpoints),
                    listener=lambda _: None,
                    say=lambda _: None,
                )
                if record.test_loss is None or record.tokens_per_s is None:
                    raise SystemExit(f"D {run.tokens:,}: {record.error}")
                losses[run.tokens].append(record.test_loss)
                seconds += trained[run.key] / record.tokens_per_s
    return seconds


def _print_losses(branched: Losses, separate: Losses, noise: float) -> float:
    """The table; returns the largest difference of the means."""
    print(f"{'D':>9} {'branched':>9} {'separate':>9} {'difference':>11} {'seed sd':>9}   (pooled sd {noise:.4f})")
    worst = 0.0
    for d in TOKENS:
        with_trunk, alone = statistics.mean(branched[d]), statistics.mean(separate[d])
        spread = math.sqrt((statistics.variance(branched[d]) + statistics.variance(separate[d])) / 2)
        print(f"{d:9,} {with_trunk:9.4f} {alone:9.4f} {with_trunk - alone:+11.4f} {spread:9.4f}")
        worst = max(worst, abs(with_trunk - alone))
    return worst


if __name__ == "__main__":
    sys.exit(main())
