"""`sixnd corpus`: build a corpus, read its receipt, look at its text, and search it for a benchmark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console

corpus_app = App(name="corpus", help="Build a corpus, or look at one.", help_format="markdown")
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
Corpora = Annotated[
    Path | None, Parameter(name="--corpora", help="Folder of built corpora; $SIXND_CORPORA or ./corpora by default.")
]


@corpus_app.command
def build(spec: str = "demo", *overrides: str, corpora: Corpora = None, processes: int | None = None) -> None:
    """Build a corpus, or say where it is if it is there already. Stopped, the same command goes on.

    Example: `sixnd corpus build tinystories vocab_size=4096`

    Parameters
    ----------
    spec
        A corpus' TOML file, a preset's name, or a sweep's TOML file, whose corpus is built.
    overrides
        key=value, such as test_fraction=0.1 or sources.0.max_bytes=50MB.
    processes
        Worker processes; one a core by default. The corpus does not depend on it.
    """
    from ...train.corpus.build import build_corpus
    from ..receipt import receipt_tables
    from ..spec import SpecError, load_corpus

    if processes is not None and processes < 1:
        raise SpecError(f"--processes {processes}: at least 1")
    for part in receipt_tables(build_corpus(load_corpus(spec, overrides), corpora, _say, processes), 256):
        console.print(part)


@corpus_app.command
def inspect(
    corpus: str, *, corpora: Corpora = None, context: int = 256, verify: bool = False, examples: bool = False
) -> None:
    """Print a corpus' receipt, the largest D that one epoch allows, and the largest N for it.

    Example: `sixnd corpus inspect corpora/76bdaa3b51834fac --verify`

    Parameters
    ----------
    corpus
        Its hash, its name, or its folder.
    context
        Tokens a model sees at once.
    verify
        Read every file and check its sha256.
    examples
        Show the beginnings of documents that the steps dropped.
    """
    from ...train.corpus.find import find_corpus
    from ...train.corpus.store import damaged_files
    from ..receipt import receipt_tables

    opened = find_corpus(corpus, corpora)
    for part in receipt_tables(opened, context):
        console.print(part)
    if examples:
        for source in opened.manifest.sources:
            for step in source.steps:
                for example in step.examples:
                    beginning = " ".join(example.beginning.split())
                    console.print(f"\n{source.name} {example.id}: {example.reason}\n  {beginning}", markup=False)
    if verify:
        from ..conclusion import Failed

        if damaged := list(damaged_files(opened)):
            raise Failed(f"{opened.path}: sha256 differs from the manifest: {', '.join(damaged)}")
        console.print("every file has the sha256 that the manifest says")


@corpus_app.command
def sample(
    corpus: str,
    *,
    corpora: Corpora = None,
    n: int = 3,
    side: Literal["train", "test"] = "train",
    source: str | None = None,
    seed: int = 0,
    characters: int = 600,
) -> None:
    """Print some documents, as the models see them.

    Example: `sixnd corpus sample demo --side test --source sotu`

    Parameters
    ----------
    corpus
        Its hash, its name, or its folder.
    n
        How many documents.
    side
        train or test.
    source
        Only documents of this source.
    seed
        Of the draw.
    characters
        Of each document, at most.
    """
    import numpy as np

    from ...train.corpus.find import find_corpus
    from ...train.corpus.text import StoredText
    from ..spec import SpecError

    opened = find_corpus(corpus, corpora)
    if source is not None and source not in opened.source_names:
        raise SpecError(f"--source {source}: the corpus has {', '.join(opened.source_names)}")
    stored = StoredText.of(opened, side)
    mine = [source is None or opened.source_names[i] == source for i in stored.source_D.tolist()]
    candidates = np.flatnonzero(mine)
    drawn = np.sort(np.random.default_rng(seed).permutation(candidates)[: max(0, n)])
    for document in drawn.tolist():
        text, size = stored.text(document), int(np.diff(stored.bounds_D1)[document])
        name = opened.source_names[int(stored.source_D[document])]
        console.rule(f"{name}: {side} document {document}, {size:,} tokens", align="left")
        console.print(text[:characters] + ("…" if len(text) > characters else ""), markup=False)
    console.print(f"\n{len(drawn)} of {len(candidates):,} documents", markup=False)


@corpus_app.command
def contamination(
    bench: Path,
    *,
    corpus: str | None = None,
    corpora: Corpora = None,
    column: tuple[str, ...] = (),
    ngram: int = 13,
    json_out: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Say how much of a benchmark stands in a corpus' training text.

    Example: `sixnd corpus contamination BENCH.jsonl --corpus demo --column question`

    Parameters
    ----------
    bench
        A .jsonl file, an item a line.
    corpus
        Hash, name or folder; may be left out where only one corpus is built.
    column
        Which text of an item to look for (may be given several times); all its strings by default.
    ngram
        Words in a row that count as overlap.
    json_out
        Where the overlap of every item goes.
    """
    from ...train.corpus.benchmark import read_items
    from ...train.corpus.contamination import BANDS, band
    from ...train.corpus.find import find_corpus
    from ...train.corpus.text import overlap_with
    from ..show import table_of, write_json
    from ..spec import SpecError

    if ngram < 2:
        raise SpecError(f"--ngram {ngram}: at least 2")
    opened, items = find_corpus(corpus, corpora), read_items(bench, column)
    shares = overlap_with(opened, items, ngram)
    words = [len(item.split()) for item in items]
    rows: list[dict[str, str | int | float]] = []
    for each in BANDS:
        inside = [i for i, share in enumerate(shares.tolist()) if band(share) == each]
        share_of_words = sum(words[i] for i in inside) / max(1, sum(words))
        rows.append({"overlap": each, "items": len(inside), "share of items": f"{len(inside) / len(items):.1%}"})
        rows[-1]["share of words"] = f"{share_of_words:.1%}"
    console.print(f"{bench}: {len(items):,} items against the training text of {opened.path}", markup=False)
    console.print(table_of(rows))
    for i in sorted(range(len(items)), key=lambda i: -shares[i])[:5]:
        if shares[i] > 0:
            console.print(f"line {i + 1}: {shares[i]:.0%}: {' '.join(items[i].split())[:100]}", markup=False)
    if json_out is not None:
        write_json(json_out, {"corpus": opened.hash, "ngram": ngram, "overlap": [round(s, 6) for s in shares.tolist()]})
        console.print(f"overlap of every item: {json_out}", markup=False)


def _say(line: str) -> None:
    console.print(line, markup=False)
