"""Builds that were stopped, raced or damaged: whole or absent, and one line where something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sixnd.train.corpus import build
from sixnd.train.corpus.build import build_from_sources, corpus_hash, open_corpus
from sixnd.train.corpus.sources import Document
from sixnd.train.corpus.spec import CorpusError, CorpusSpec
from sixnd.train.corpus.store import damaged_files

from tests.conftest import make_documents, make_source

ROOT = Path(__file__).parents[3]
SPEC = CorpusSpec(name="t", vocab_size=300, test_fraction=0.2)
SOURCE = make_source(make_documents(60))


def quiet(_: str) -> None: ...


def child(root: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that builds SPEC on SOURCE under `root`, after the lines `before`, and prints what it says."""
    code = f"""
import os, signal, time
from pathlib import Path
from sixnd.train.corpus import build, store
from tests.train.corpus.test_recovery import SOURCE, SPEC
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
{before}
build.build_from_sources(SPEC, [SOURCE], Path({str(root)!r}))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "moment",
    [
        "build.train_tokenizer = die",
        "build.ShardWriter = die",
        "store.ShardWriter.close = die",
        "build.Manifest = die",
        "build.sync = lambda path: die() if path.name == 'manifest.json' else None",
        "Path.rename = die",
    ],
)
def test_killed_at_any_stage(tmp_path: Path, moment: str) -> None:
    process = child(tmp_path, moment)
    process.communicate(timeout=60)
    assert process.returncode == -9
    with pytest.raises(CorpusError, match="no corpus here"):
        open_corpus(corpus_hash(SPEC, [SOURCE]), tmp_path)
    rebuilt = build_from_sources(SPEC, [SOURCE], tmp_path, quiet)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [rebuilt.hash]
    assert list(damaged_files(rebuilt)) == []


def test_two_builders_at_once_build_once(tmp_path: Path) -> None:
    slow = "original = build.train_tokenizer\nbuild.train_tokenizer = lambda *a: (time.sleep(1), original(*a))[1]"
    builders = [child(tmp_path, slow) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in builders]
    assert [process.returncode for process in builders] == [0, 0]
    assert sum("training a tokenizer" in lines for lines in said) == 1
    assert list(damaged_files(open_corpus(corpus_hash(SPEC, [SOURCE]), tmp_path))) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_stopped_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    def stopped(**_: object) -> None:
        raise stop

    with monkeypatch.context() as patch, pytest.raises(type(stop)):
        patch.setattr(build, "Manifest", stopped)
        build_from_sources(SPEC, [SOURCE], tmp_path, quiet)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def _of_another_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 999}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff{"), "not a manifest"),
        (_of_another_format, "format 999"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda folder: (folder / "test-00000.bin").unlink(), "test-00000.bin"),
        (lambda folder: (folder / "train-00000.bin").write_bytes(b""), "train-00000.bin"),
    ],
)
def test_a_build_refuses_a_damaged_corpus_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    corpus = build_from_sources(SPEC, [SOURCE], tmp_path, quiet)
    damage(corpus.path)
    with pytest.raises(CorpusError, match=named) as error:
        build_from_sources(SPEC, [SOURCE], tmp_path, quiet)
    message = str(error.value)
    assert "\n" not in message and "move the folder away" in message
    with pytest.raises(CorpusError):
        open_corpus(corpus.hash, tmp_path)
    corpus.path.rename(tmp_path / "away")  # what the message says does help
    assert list(damaged_files(build_from_sources(SPEC, [SOURCE], tmp_path, quiet))) == []


@pytest.mark.parametrize("name", ["", ".", "no-such-corpus"])
def test_a_mistyped_name_is_only_not_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="no corpus here; build it with"):
        open_corpus(name, tmp_path)


def test_the_default_root_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIXND_CORPORA", str(tmp_path))
    built = build_from_sources(SPEC, [SOURCE], None, quiet)
    assert built.path.parent == tmp_path and open_corpus(built.hash).hash == open_corpus(str(built.path)).hash


def test_every_text_survives_the_tokens(tmp_path: Path) -> None:
    """Bytes no training text has, white space of all sorts, and every shard boundary inside documents."""
    oddities = [
        "",
        " ",
        "\n\n\t ",
        "\r\n",
        "\x00\x7f",
        "é\u0301",
        "漢字かな",
        "🜁👩‍👩‍👧",
        "\u200b\ufeff",
        "<|endoftext|>",
    ]
    documents = [
        Document("odd", d.id, odd + d.text + odd) for d, odd in zip(make_documents(200), oddities * 20, strict=True)
    ]
    corpus = build_from_sources(
        SPEC.model_copy(update={"shard_tokens": 1024}), [make_source(documents, "odd")], tmp_path, quiet
    )
    tokenizer, decoded = corpus.tokenizer(), []
    for side in (corpus.train, corpus.test):
        tokens = side.windows(np.zeros(1, np.int64), len(side))[0]
        pieces = np.split(tokens, np.flatnonzero(tokens == 0))[1:]
        decoded += [tokenizer.decode(piece[1:].tolist(), skip_special_tokens=False) for piece in pieces]
    assert len(corpus.manifest.train_shards) > 2
    assert sorted(decoded) == sorted(document.text for document in documents)
    assert corpus.manifest.train.bytes + corpus.manifest.test.bytes == sum(len(d.text.encode()) for d in documents)
