"""Corpora: time, memory and speed of a build, and whether equal specs give equal bytes.

    python benchmarks/corpus.py              # about 12 minutes on two cores, 3 GB of disk in a temporary folder
    python benchmarks/corpus.py --small      # without the synthetic gigabyte: about 3 minutes

Builds the five-package corpus `full` with all steps on 1 and on 2 processes, each in a process of its own whose memory is
sampled with that of its workers; times cleaning and near-deduplication on one core over the same text; then builds a
corpus of 1 GB of made-up text. Needs the extras demo, text-cc-by-sa, text-gpl and text-apache. Exits 1 where a target is
missed: 120 s and 1.5 GB for `full` on two processes, equal manifests, 2 s for a reuse, 2.5 MB/s a core of cleaning,
8 MB/s of near-deduplication, 2.5 GB for the gigabyte.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sixnd.sweeps.spec import load_corpus
from sixnd.train.corpus.build import build_corpus, open_corpus
from sixnd.train.corpus.clean import Cleaner
from sixnd.train.corpus.dedup import near_first
from sixnd.train.corpus.documents import BATCH_BYTES
from sixnd.train.corpus.manifest import BUILT, Built
from sixnd.train.corpus.minhash import signatures
from sixnd.train.corpus.sources import read_source
from sixnd.train.corpus.spec import CorpusSpec, NearDuplicates
from sixnd.train.corpus.store import Corpus, damaged_files
from sixnd.train.corpus.words import hash_words

LIMITS = {"full s": 120.0, "full MB": 1500.0, "reuse s": 2.0, "large MB": 2500.0}
LEAST = {"cleaning MB/s": 2.5, "near-dedup MB/s": 8.0}
PAGE = os.sysconf("SC_PAGE_SIZE")
LARGE_BYTES, FILES = 1_000_000_000, 4
LARGE = {
    "name": "large",
    "vocab_size": 1024,
    "test_fraction": 0.01,
    "clean": {"quality": ["gopher", "gopher-repetition"]},
    "sources": [{"kind": "files", "name": "made-up", "paths": ["large/*.jsonl"], "licence": "CC0-1.0"}],
}


def build_here(spec: str, processes: str) -> None:
    """Builds under ./PROCESSES and prints one line of JSON."""
    started = time.perf_counter()
    corpus = build_corpus(CorpusSpec.model_validate_json(spec), Path(processes), lambda _: None, int(processes))
    print(json.dumps({"hash": corpus.hash, "seconds": time.perf_counter() - started}))


def built(spec: CorpusSpec, folder: Path, processes: int) -> tuple[Corpus, float, float]:
    """The corpus, seconds, and the most MB that the builder and its workers held together."""
    command = [sys.executable, str(Path(__file__).resolve()), "--build", spec.model_dump_json(), str(processes)]
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    peak = 0
    while child.poll() is None:
        peak = max(peak, resident(child.pid))
        time.sleep(0.1)
    assert child.stdout is not None
    if child.returncode:
        sys.exit(f"the build of {spec.name} failed")
    figures = json.loads(child.stdout.read().splitlines()[-1])
    return open_corpus(figures["hash"], folder / str(processes)), figures["seconds"], peak / 1e6


def resident(pid: int) -> int:
    """Bytes in memory of a process and all that it started (Linux; pages that they share count for each)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * PAGE + sum(resident(int(child)) for child in children)


def batches(spec: CorpusSpec, folder: Path) -> Iterator[list[str]]:
    """The text of a corpus' sources, a megabyte at a time."""
    batch, size = [], 0
    for source in spec.sources:
        for document in read_source(source, spec.max_document_bytes, folder).documents():
            batch.append(document.text)
            size += len(document.text)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def speeds(spec: CorpusSpec, folder: Path) -> dict[str, float]:
    """MB/s of one core: the cleaning steps together, and near-deduplication from text to answer."""
    cleaner, near = Cleaner.of(spec.clean, spec.clean.quality), spec.near or NearDuplicates()
    size, cleaning, hashing, rows = 0, 0.0, 0.0, []
    for batch in batches(spec, folder):
        size += sum(len(text.encode()) for text in batch)
        one = time.perf_counter()
        cleaner(batch)
        two = time.perf_counter()
        rows.append(signatures(hash_words(batch), near))
        cleaning, hashing = cleaning + two - one, hashing + time.perf_counter() - two
    began = time.perf_counter()
    whole = np.concatenate(rows)
    near_first(whole, near, np.ones(len(whole), bool))
    hashing += time.perf_counter() - began
    print(
        f"one core over {size / 1e6:.1f} MB in {len(whole):,} documents: cleaning {cleaning:.1f} s, MinHash {hashing:.1f} s"
    )
    return {"cleaning MB/s": size / 1e6 / cleaning, "near-dedup MB/s": size / 1e6 / hashing}


def write_large(folder: Path) -> None:
    """A gigabyte of made-up documents, words by Zipf's law, of which one in twenty nearly repeats the one before."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = rng.integers(2, 10, 50_000)
    vocabulary = np.array(["".join(rng.choice(letters, length)) for length in lengths])
    chances = 1 / np.arange(1, len(vocabulary) + 1) ** 1.05
    cumulative = np.cumsum(chances / chances.sum())
    folder.mkdir()
    for number in range(FILES):
        with (folder / f"{number}.jsonl").open("w") as file:
            size, words = 0, vocabulary[:0]
            while size < LARGE_BYTES / FILES:
                if rng.random() < 0.05 and len(words):
                    words = words.copy()
                    words[rng.integers(len(words))] = "changed"
                else:
                    words = vocabulary[np.searchsorted(cumulative, rng.random(rng.integers(100, 600)))]
                text = ".\n".join(" ".join(words[i : i + 12].tolist()) for i in range(0, len(words), 12))
                size += file.write(json.dumps({"text": text + "."}) + "\n")


def show(corpus: Corpus, seconds: float, peak: float, processes: int) -> None:
    manifest = corpus.manifest
    read = sum(source.steps[0].after.bytes for source in manifest.sources)
    steps = Built.model_validate_json((corpus.path / BUILT).read_bytes()).seconds
    slowest = ", ".join(f"{name} {s:.1f}" for name, s in sorted(steps.items(), key=lambda item: -item[1])[:6])
    print(
        f"{manifest.name} on {processes}: {read / 1e6:.1f} MB read, {manifest.train.documents + manifest.test.documents:,}"
        f" documents and {manifest.train.tokens:,} + {manifest.test.tokens:,} tokens stored,"
        f" {seconds:.1f} s, at most {peak:,.0f} MB; seconds: {slowest}",
        flush=True,
    )


def main() -> int:
    small = "--small" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder, spec = Path(name), load_corpus("full")
        corpora = {}
        for processes in (1, 2):
            corpus, seconds, peak = built(spec, folder, processes)
            show(corpus, seconds, peak, processes)
            corpora[processes] = corpus
        figures = {"full s": seconds, "full MB": peak}
        began = time.perf_counter()
        build_corpus(spec, folder / "2", lambda _: None)
        figures["reuse s"] = time.perf_counter() - began
        one, two = ((corpus.path / "manifest.json").read_bytes() for corpus in corpora.values())
        same = one == two and not [file for corpus in corpora.values() for file in damaged_files(corpus)]
        figures |= speeds(spec, folder)
        if not small:
            write_large(folder / "large")
            corpus, seconds, peak = built(CorpusSpec.model_validate(LARGE), folder, 2)
            show(corpus, seconds, peak, 2)
            figures["large MB"] = peak
    missed = [name for name, limit in LIMITS.items() if figures.get(name, 0) > limit]
    missed += [name for name, least in LEAST.items() if figures[name] < least]
    print(
        ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        + f"; manifests on 1 and 2 processes {'equal' if same else 'DIFFER'}"
        + (f"; MISSED: {', '.join(missed)}" if missed else "")
    )
    return 1 if missed or not same else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        build_here(*sys.argv[2:])
    else:
        sys.exit(main())
