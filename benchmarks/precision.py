"""bf16 against fp32: the held-out loss of the same runs in both, on one rung of the demo.

    python benchmarks/precision.py               # eight seeds, about seven minutes on one core
    python benchmarks/precision.py --seeds 2

A pair of runs shares seed, data and everything else, but rounding makes them part ways as two seeds would, only less far; so the mean
over pairs has a standard error, and is held against the target with it: exits 1 where bf16 is surely (95 %) more than 0.001
nats away from fp32. The same weights evaluated in both precisions show what rounding does to the evaluation alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sixnd.models.config import ModelConfig
from sixnd.models.transformer import Transformer
from sixnd.sweeps.spec import load_sweep
from sixnd.train.corpus.build import build_corpus
from sixnd.train.corpus.store import Corpus
from sixnd.train.evaluate import HeldOutWindows, evaluate
from sixnd.train.loop import train
from sixnd.train.schedule import Schedule
from sixnd.train.settings import OptimizerSettings, beta2_for, peak_lr
from sixnd.train.spec import RunSpec

SHAPE, TOKENS, BATCH, TARGET = (2, 64), 999_424, 2048, 0.001


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    n_seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    corpus = build_corpus(load_sweep("demo").corpus)
    print(f"{SHAPE[0]} layers, width {SHAPE[1]}, D = {TOKENS:,}; test loss in nats/token")
    print("seed    bf16    fp32   bf16 - fp32   same weights, evaluated in bf16 - in fp32", flush=True)
    trained, evaluated = [], []
    for seed in range(n_seeds):
        bf16, rounding = _run(corpus, seed, "bf16")
        fp32, _ = _run(corpus, seed, "fp32")
        trained.append(bf16 - fp32)
        evaluated.append(rounding)
        print(f"{seed:4d}  {bf16:6.4f}  {fp32:6.4f}   {bf16 - fp32:+11.4f}   {rounding:+.5f}", flush=True)
    mean, error = float(np.mean(trained)), float(np.std(trained, ddof=1) / np.sqrt(n_seeds))
    half = float(stats.t.ppf(0.975, n_seeds - 1)) * error
    sure = abs(mean) - half > TARGET
    print(
        f"bf16 - fp32: {mean:+.4f}, 95 % interval {mean - half:+.4f} to {mean + half:+.4f} over {n_seeds} seeds (target {TARGET} apart):"
        f" {'MISSED' if sure else 'not refuted' if half > TARGET else 'met'}; evaluation alone {np.mean(evaluated):+.5f}"
    )
    return 1 if sure else 0


def _run(corpus: Corpus, seed: int, precision: str) -> tuple[float, float]:
    """Test loss of a run, and by how much its weights lose more in bf16 than in fp32."""
    model = ModelConfig.from_shape(*SHAPE, corpus.vocab_size)
    spec = RunSpec.model_validate(
        {
            "corpus": corpus.hash,
            "model": model,
            "tokens": TOKENS,
            "seed": seed,
            "batch_tokens": BATCH,
            "optimizer": OptimizerSettings(lr=peak_lr(model.n_non_embedding), beta2=beta2_for(BATCH)),
            "schedule": Schedule(warmup_tokens=TOKENS // 20),
            "precision": precision,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        record = train(spec, weights=weights, listener=lambda _: None, say=lambda _: None)
        alone = Transformer(model)
        alone.load_state_dict(torch.load(weights, weights_only=True))
    assert record.test_loss is not None
    windows = HeldOutWindows.of(corpus, model.context, spec.held_out)
    low, exact = (evaluate(alone, corpus, windows, 8, dtype).mean for dtype in (torch.bfloat16, torch.float32))
    return record.test_loss, low - exact


if __name__ == "__main__":
    sys.exit(main())
