"""From a spec to a finished corpus, step by step. Built once, then reused by the hash of its contents; a stopped build goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel

from .contamination import BANDS, band
from .dedup import bytes_per_document
from .encode import Encoded, Overlaps, TokenizerReceipt, encode, find_overlaps, make_tokenizer
from .manifest import (
    BUILT,
    FORMAT_VERSION,
    MANIFEST,
    TOKENIZER,
    Built,
    Count,
    DocumentEntry,
    Manifest,
    SourceEntry,
    Step,
)
from .prepare import Prepared, Read, prepare, read
from .select import Selected, select
from .sources import Source, read_source
from .spec import BuildStopped, CorpusError, CorpusSpec, NearDuplicates
from .store import AGAIN, Corpus, read_corpus, sync, token_dtype
from .workspace import Workspace

UNFINISHED, OUT = ".unfinished", "corpus"


def corpora_root(root: Path | None = None) -> Path:
    """The folder of built corpora: `root`, else $SIXND_CORPORA, else ./corpora."""
    return root or Path(os.environ.get("SIXND_CORPORA", "corpora"))


def open_corpus(name: str, root: Path | None = None) -> Corpus:
    """The corpus of a hash under `root`, or in the folder that `name` is.

    Raises:
        CorpusError: it is missing or damaged.
    """
    folder = Path(name)
    return read_corpus(folder if (folder / MANIFEST).is_file() else corpora_root(root) / name)


def built_corpus(spec: CorpusSpec, root: Path | None = None) -> Corpus | None:
    """The corpus of `spec` where it is built already.

    Raises:
        CorpusError: a source is missing or not what was asked for, or the corpus is damaged.
    """
    folder = corpora_root(root)
    name = corpus_hash(spec, _sources(spec, folder))
    return read_corpus(folder / name) if (folder / name / MANIFEST).is_file() else None


def usual_processes() -> int:
    """One for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_corpus(
    spec: CorpusSpec, root: Path | None = None, say: Callable[[str], None] = print, processes: int | None = None
) -> Corpus:
    """The corpus of `spec`: opened where it was built before, built otherwise.

    Raises:
        CorpusError: a source is missing or not what was asked for, or nothing is left for training or test.
        BuildStopped: the disk is full or a worker was killed; finished steps are kept.
    """
    folder = corpora_root(root)
    return build_from_sources(spec, _sources(spec, folder), folder, say, processes)


def _sources(spec: CorpusSpec, folder: Path) -> list[Source]:
    return [read_source(source, spec.max_document_bytes, folder) for source in spec.sources]


def build_from_sources(
    spec: CorpusSpec,
    sources: Sequence[Source],
    root: Path | None = None,
    say: Callable[[str], None] = print,
    processes: int | None = None,
) -> Corpus:
    """`build_corpus` on sources already opened, one for each of `spec.sources`."""
    folder, name = corpora_root(root), corpus_hash(spec, sources)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CorpusError(f"{folder}: a file stands where the folder of corpora should be") from None
    with FileLock(folder / f".{name}.lock"):
        work = folder / f"{name}{UNFINISHED}"
        if (folder / name / MANIFEST).is_file():
            shutil.rmtree(work, ignore_errors=True)  # of a build killed after its last rename
            return read_corpus(folder / name)
        if (folder / name).exists():  # a build is renamed into place whole, so somebody took the manifest away
            raise CorpusError(f"{folder / name}: {MANIFEST} is missing; {AGAIN}")
        work.mkdir(exist_ok=True)
        workspace = Workspace(work, processes or usual_processes(), say)
        try:
            _build(workspace, spec, name, sources)
        except OSError as error:
            reason = " ".join((error.strerror or str(error)).split())
            raise BuildStopped(
                f"{error.filename or work}: {reason}; finished steps are kept: the same command goes on"
            ) from None
        (work / OUT).rename(folder / name)
        sync(folder)
        shutil.rmtree(work)
    return read_corpus(folder / name)


def corpus_hash(spec: CorpusSpec, sources: Sequence[Source]) -> str:
    """Name of the corpus: a hash of everything that decides its tokens, known before any is made."""
    recipe = {
        "format": FORMAT_VERSION,
        "spec": spec.model_dump(mode="json", exclude={"name"}),
        "sources": [source.sha256 for source in sources],
        "files": [_sha256(Path(file)) for file in _files_named(spec)],
        "versions": _versions(spec),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _files_named(spec: CorpusSpec) -> list[str]:
    words = spec.clean.toxicity.words if spec.clean.toxicity else None
    tokenizer = spec.tokenizer.file if spec.tokenizer else None
    return [file for file in (words, tokenizer) if file is not None]


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions(spec: CorpusSpec) -> dict[str, str]:
    """Of everything beside sixnd that decides a corpus' bytes."""
    packages = ("tokenizers", *(("ftfy",) if spec.clean.unicode == "ftfy" else ()))
    try:
        return {name: version(name) for name in packages} | {"unicode": unicodedata.unidata_version}
    except ModuleNotFoundError:
        raise CorpusError('clean.unicode = "ftfy": ftfy is not installed; pip install "sixnd[ftfy]"') from None


def _build(workspace: Workspace, spec: CorpusSpec, name: str, sources: Sequence[Source]) -> None:
    """Every step in order; the finished corpus lies in the workspace's own folder `corpus`."""
    say, n = workspace.say, len(sources)
    if spec.tokenizer:  # first of all: one that cannot be had should not be missed after hours of reading
        workspace.step("tokenizer", TokenizerReceipt, partial(make_tokenizer, workspace, spec, 0))
    reads, prepared = [], []
    for i, source in enumerate(sources):
        reads.append(workspace.step(f"{i}-read", Read, partial(read, workspace, i, source, spec)))
        prepared.append(workspace.step(f"{i}-clean", Prepared, partial(prepare, workspace, i, reads[i], spec)))
        left = prepared[i].test + prepared[i].validation + prepared[i].train
        say(f"{source.name}: {_of(left)} of {_of(reads[i].step.before)} after cleaning")
    selected = workspace.step("select", Selected, lambda: select(workspace, spec))
    train, test = _total(selected.train), _total(selected.test)
    tuning = f", {_of(_total(selected.validation))} for tuning" if spec.validation_fraction else ""
    say(
        f"{_of(train)} for training{tuning} and {_of(test)} held out after deduplication"
        f" ({_state(spec)} bytes of state a document)"
    )
    overlaps = None
    if contamination := spec.contamination:
        overlaps = workspace.step("overlaps", Overlaps, lambda: find_overlaps(workspace, spec, contamination))
        bands = Counter(band(share) for share in overlaps.shares)
        say(f"held-out documents by {contamination.ngram}-gram overlap: {', '.join(f'{bands[b]} {b}' for b in BANDS)}")
    chosen = workspace.step("tokenizer", TokenizerReceipt, lambda: make_tokenizer(workspace, spec, train.bytes))
    say(f"tokenizer of {chosen.vocab_size:,}")
    out = workspace.folder / OUT
    out.mkdir(exist_ok=True)
    train_side = workspace.step("train-shards", Encoded, lambda: encode(workspace, spec, "train", chosen, out, None))
    kept = overlaps.kept if overlaps else None
    test_side = workspace.step("test-shards", Encoded, lambda: encode(workspace, spec, "test", chosen, out, kept))
    validation_side = None
    if spec.validation_fraction:
        encode_it = partial(encode, workspace, spec, "validation", chosen, out, None)
        validation_side = workspace.step("validation-shards", Encoded, encode_it)
    steps = [
        (reads[i].step, *prepared[i].steps, *selected.steps[i], *(overlaps.steps[i : i + 1] if overlaps else ()))
        for i in range(n)
    ]
    manifest = _manifest(spec, name, sources, steps, overlaps, chosen, train_side, test_side, validation_side)
    shutil.copyfile(workspace.folder / TOKENIZER, out / TOKENIZER)
    _write(out / MANIFEST, manifest)
    _write(out / BUILT, _built(workspace, spec))
    for file in (out / TOKENIZER, out):
        sync(file)
    say(
        f"corpus {spec.name}: {', '.join(f'{count.tokens:,} {side}' for side, count in manifest.sides.items())} tokens"
        f" ({manifest.bytes_per_token:.2f} bytes a token) in {sum(workspace.seconds.values()):.0f} s"
    )


def _write(path: Path, content: BaseModel) -> None:
    path.write_text(content.model_dump_json(indent=1), encoding="utf-8")
    sync(path)


def _state(spec: CorpusSpec) -> int:
    """Bytes that deduplication holds in memory for each document."""
    return bytes_per_document(spec.near or NearDuplicates())[1]


def _of(count: Count) -> str:
    return f"{count.documents:,} documents ({count.bytes / 1e6:.1f} MB)"


def _built(workspace: Workspace, spec: CorpusSpec) -> Built:
    return Built(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds={step: round(seconds, 3) for step, seconds in workspace.seconds.items()},
        processes=workspace.processes,
        state_bytes_per_document=_state(spec),
    )


def _manifest(
    spec: CorpusSpec,
    name: str,
    sources: Sequence[Source],
    steps: Sequence[tuple[Step, ...]],
    overlaps: Overlaps | None,
    chosen: TokenizerReceipt,
    train: Encoded,
    test: Encoded,
    validation: Encoded | None,
) -> Manifest:
    """The receipt, put together from the receipts of the steps."""
    entries = []
    for i, source in enumerate(sources):
        whole = train.counts[i] + test.counts[i]
        per_byte = (whole.tokens - whole.documents) / max(1, whole.bytes)
        entries.append(
            SourceEntry(
                name=source.name,
                kind=spec.sources[i].kind,
                version=source.version,
                licence=source.licence,
                sha256=source.sha256,
                steps=tuple(step.with_tokens(per_byte) for step in steps[i]),
                train=train.counts[i],
                test=test.counts[i],
                validation=validation.counts[i] if validation else None,
            )
        )
    shares: Sequence[float | None] = [None] * len(test.documents)
    if overlaps:
        shares = [share for share, kept in zip(overlaps.shares, overlaps.kept, strict=True) if kept]
    total_train = _total(train.counts)
    return Manifest(
        format_version=FORMAT_VERSION,
        hash=name,
        name=spec.name,
        spec=spec,
        sources=tuple(entries),
        train=total_train,
        test=_total(test.counts),
        test_text_sha256=test.text_sha256,
        vocab_size=chosen.vocab_size,
        end_of_text_id=chosen.end_of_text_id,
        bytes_per_token=total_train.bytes / total_train.tokens,
        tokenizer_sha256=chosen.sha256,
        dtype=token_dtype(chosen.vocab_size).str,
        train_shards=train.shards,
        test_shards=test.shards,
        test_documents=_entries(sources, test, shares),
        versions={"sixnd": version("sixnd"), "python": platform.python_version()} | _versions(spec),
        validation=_total(validation.counts) if validation else None,
        validation_shards=validation.shards if validation else (),
        validation_documents=_entries(sources, validation, [None] * len(validation.documents)) if validation else (),
    )


def _entries(sources: Sequence[Source], side: Encoded, shares: Sequence[float | None]) -> tuple[DocumentEntry, ...]:
    return tuple(
        DocumentEntry(source=sources[source].name, id=id, bytes=size, tokens=tokens, overlap=share)
        for (source, id, size, tokens), share in zip(side.documents, shares, strict=True)
    )


def _total(counts: Sequence[Count]) -> Count:
    return sum(counts, Count(documents=0, bytes=0))
