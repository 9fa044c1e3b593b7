"""The embedded corpus: time of a build by stage, of its reuse, and whether a rebuild gives the same bytes.

    python benchmarks/corpus.py              # about 20 seconds on one core

Builds twice from nothing, each in its own process, on 1 and on 2 tokenizer threads. Exits 1 where reuse takes 2 s or
more, or where the two builds differ in any file but for the date in the manifest.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sixnd.train.corpus.build import build_corpus, open_corpus
from sixnd.train.corpus.spec import CorpusSpec
from sixnd.train.corpus.store import Corpus, damaged_files

SPEC = CorpusSpec(name="demo")
REUSE_LIMIT_S = 2.0
ROWS, LENGTH, CALLS = 8, 257, 5000  # of the window reads: a training step of the demo


def build_here(root: str) -> None:
    """Builds under `root` and prints one line of JSON: where each stage began, seconds, and peak memory."""
    started = time.perf_counter()
    marks: list[tuple[float, str]] = []
    corpus = build_corpus(SPEC, Path(root), lambda line: marks.append((time.perf_counter() - started, line)))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"hash": corpus.hash, "seconds": seconds, "read": marks[0][0], "peak_mb": peak / 1e6}))


def built(root: Path, threads: int) -> dict[str, float]:
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--build", str(root)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def contents(corpus: Corpus) -> dict[str, object]:
    """The manifest without its date: it holds the sha256 of every other file."""
    return corpus.manifest.model_dump(exclude={"created_at"})


def microseconds_per_step(corpus: Corpus) -> float:
    starts = np.random.default_rng(0).integers(0, len(corpus.train) - LENGTH, (CALLS, ROWS))
    corpus.train.windows(starts[0], LENGTH)
    began = time.perf_counter()
    for row in starts:
        corpus.train.windows(row, LENGTH)
    return (time.perf_counter() - began) / CALLS * 1e6


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        roots = {threads: Path(folder) / str(threads) for threads in (1, 2)}
        print(f"{'threads':>7} {'read+split s':>12} {'BPE+encode s':>12} {'build s':>8} {'peak MB':>8}")
        corpora = {}
        for threads, root in roots.items():
            figures = built(root, threads)
            rest = figures["seconds"] - figures["read"]
            print(
                f"{threads:7d} {figures['read']:12.2f} {rest:12.2f} {figures['seconds']:8.2f} {figures['peak_mb']:8.0f}",
                flush=True,
            )
            corpora[threads] = open_corpus(str(figures["hash"]), root)
        began = time.perf_counter()
        corpus = build_corpus(SPEC, roots[1], lambda _: None)
        reuse = time.perf_counter() - began
        same = contents(corpora[1]) == contents(corpora[2])
        damaged = [file for corpus in corpora.values() for file in damaged_files(corpus)]
        manifest = corpus.manifest
        for source in manifest.sources:
            print(
                f"{source.name}: {source.train.documents} + {source.test.documents} documents,"
                f" {source.train.tokens:,} + {source.test.tokens:,} tokens (train + test)"
            )
        print(f"a training step's {ROWS} windows of {LENGTH}: {microseconds_per_step(corpus):.0f} microseconds")
        print(
            f"reuse {reuse:.2f} s; rebuild {'identical' if same and not damaged else 'DIFFERS'};"
            f" {(manifest.train.bytes + manifest.test.bytes) / 1e6:.1f} MB, {manifest.train.tokens:,} training and"
            f" {manifest.test.tokens:,} test tokens, {manifest.bytes_per_token:.2f} bytes a token"
        )
    return 0 if reuse < REUSE_LIMIT_S and same and not damaged else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        build_here(sys.argv[2])
    else:
        sys.exit(main())
