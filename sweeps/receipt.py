"""A corpus' manifest as tables: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from ..train.corpus.contamination import BANDS, band
from ..train.corpus.manifest import DocumentEntry, Manifest
from ..train.corpus.store import Corpus, unique_tokens
from .show import short, table_of

TOKENS_PER_PARAMETER = 20  # the compute-optimal ratio of Hoffmann et al. (2022), table 3
Rows = list[dict[str, str | int | float]]


def source_rows(manifest: Manifest) -> Rows:
    """One row for each source and side: what is stored."""
    rows: Rows = []
    for source in manifest.sources:
        for side, count in source.sides.items():
            rows.append(
                {"source": source.name, "version": source.version[:12], "licence": source.licence, "side": side}
            )
            rows[-1] |= {"documents": count.documents, "bytes": count.bytes, "tokens": count.tokens}
    for side, count in manifest.sides.items():
        rows.append({"source": "all", "version": "", "licence": "", "side": side})
        rows[-1] |= {"documents": count.documents, "bytes": count.bytes, "tokens": count.tokens}
    return rows


def step_rows(manifest: Manifest) -> Rows:
    """One row for each source and step: documents, bytes and (estimated) tokens in and out, and what was dropped."""
    rows: Rows = []
    for source in manifest.sources:
        for step in source.steps:
            reasons = (f"{n:,} {reason.removeprefix(f'{step.step}: ')}" for reason, n in step.dropped.items())
            altered = [f"{step.changed:,} altered"] if step.changed else []
            rows.append(
                {
                    "source": source.name,
                    "step": step.step,
                    "documents in": step.before.documents,
                    "out": step.after.documents,
                    "bytes in": step.before.bytes,
                    "bytes out": step.after.bytes,
                    "~tokens in": step.before.tokens,
                    "~tokens out": step.after.tokens,
                    "dropped": ", ".join([*reasons, *altered]),
                }
            )
    return rows


def overlap_rows(manifest: Manifest) -> Rows:
    """The held-out documents of all sources and of each, in three bands of overlap with the training text."""
    documents = [document for document in manifest.test_documents if document.overlap is not None]
    groups = {"all": documents} | {
        source.name: [document for document in documents if document.source == source.name]
        for source in manifest.sources
        if len(manifest.sources) > 1
    }
    return [row for name, group in groups.items() for row in _bands(name, group)] if documents else []


def _bands(name: str, documents: Sequence[DocumentEntry]) -> Iterable[dict[str, str | int | float]]:
    total = max(1, sum(document.tokens for document in documents))
    for each in BANDS:
        inside = [document for document in documents if band(document.overlap or 0.0) == each]
        tokens = sum(document.tokens for document in inside)
        yield {
            "held-out text of": name,
            "overlap": each,
            "documents": len(inside),
            "share of documents": f"{len(inside) / max(1, len(documents)):.1%}",
            "tokens": tokens,
            "share of tokens": f"{tokens / total:.1%}",
        }


def receipt_tables(corpus: Corpus, context: int) -> list[Table | str]:
    """What `sixnd corpus inspect` prints."""
    manifest = corpus.manifest
    most = unique_tokens(len(corpus.train), context)
    parts: list[Table | str] = [table_of(source_rows(manifest)), "", table_of(step_rows(manifest))]
    if overlap := overlap_rows(manifest):
        parts += ["", table_of(overlap)]
    return [
        *parts,
        "",
        f"{corpus.path}: vocabulary {manifest.vocab_size:,}, {manifest.bytes_per_token:.2f} bytes a token, {manifest.dtype}",
        f"one epoch allows D up to {most:,} tokens at context {context}, and so N up to"
        f" {short(most / TOKENS_PER_PARAMETER)} at {TOKENS_PER_PARAMETER} tokens a parameter",
        "tokens of steps (~) are estimated at each source's own bytes a token; those stored are counted",
    ]


def receipt_facts(manifest: Manifest) -> dict[str, object]:
    """The manifest as the report shows it."""
    return {
        "name": manifest.name,
        "hash": manifest.hash,
        "vocabulary": manifest.vocab_size,
        "bytes per token": manifest.bytes_per_token,
        "training tokens": manifest.train.tokens,
        "held-out tokens": manifest.test.tokens,
        "tokens held out for tuning": manifest.validation.tokens if manifest.validation else 0,
        "versions": manifest.versions,
        "sources": source_rows(manifest),
        "steps": step_rows(manifest),
        "overlap": overlap_rows(manifest),
    }
