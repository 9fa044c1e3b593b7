"""`sixnd corpus`: from files of one's own to a receipt, a sample and a search for a benchmark; bad input in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.conftest import make_documents
from tests.sweeps.test_cli import sixnd

OWN = """
name = "own"
vocab_size = 300
test_fraction = 0.2
[clean]
quality = []
[[sources]]
kind = "files"
name = "mine"
paths = ["text/*.jsonl"]
licence = "CC0-1.0"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "text").mkdir()
    rows = [json.dumps({"text": document.text}) for document in make_documents(80)]
    (folder / "text" / "a.jsonl").write_text("\n".join(rows[:40] + rows[:5]))
    (folder / "text" / "b.jsonl").write_text("\n".join(rows[40:]))
    (folder / "own.toml").write_text(OWN)
    done = sixnd("corpus", "build", "own.toml", "--processes", "2", cwd=folder)
    assert "after deduplication" in done.stdout and "bytes of state a document" in done.stdout
    return folder


def test_inspect_prints_the_receipt(home: Path) -> None:
    shown = sixnd("corpus", "inspect", "own", "--verify", "--examples", cwd=home).stdout
    for word in ("CC0-1.0", "unicode", "quality", "toxicity", "exact", "near", "mixture", "contamination", "5 exact"):
        assert word in shown
    assert "one epoch allows D up to" in shown and "20 tokens a parameter" in shown
    assert "every file has the sha256" in shown and "same text as" in shown
    assert {"clean", "partly", "dirty"} <= set(shown.split())


def test_a_damaged_corpus_fails_its_verification(home: Path, tmp_path: Path) -> None:
    sixnd("corpus", "build", str(home / "own.toml"), "vocab_size=280", "--corpora", str(tmp_path), cwd=home)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    shard = folder / "test-00000.bin"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    assert "test-00000.bin" in sixnd("corpus", "inspect", str(folder), "--verify", cwd=home, code=1).stderr


def test_sample_shows_whole_documents(home: Path) -> None:
    texts = {document.text for document in make_documents(80)}
    shown = sixnd("corpus", "sample", "own", "--side", "test", "--n", "2", "--characters", "9999", cwd=home).stdout
    assert sum(text in shown.replace("\n", "") for text in texts) == 2
    assert (
        shown == sixnd("corpus", "sample", "own", "--side", "test", "--n", "2", "--characters", "9999", cwd=home).stdout
    )
    assert "the corpus has mine" in sixnd("corpus", "sample", "own", "--source", "x", cwd=home, code=2).stderr


def test_contamination_finds_what_stands_in_the_training_text(home: Path) -> None:
    known = sixnd("corpus", "sample", "own", "--n", "3", "--characters", "9999", cwd=home).stdout
    pasted = [text for text in (d.text for d in make_documents(80)) if text in known.replace("\n", "")]
    foreign = [document.text.replace("a", "zz") for document in make_documents(5, seed=77)]
    items = [{"question": text, "answer": {"choices": ["x", "y"]}} for text in [*pasted, *foreign]]
    (home / "bench.jsonl").write_text("\n".join(map(json.dumps, items)))
    shown = sixnd("corpus", "contamination", "bench.jsonl", "--column", "question", "--json", "o.json", cwd=home).stdout
    assert "8 items" in shown and "line 1: 100%" in shown
    overlap = json.loads((home / "o.json").read_text())["overlap"]
    assert len(pasted) == 3 and overlap[:3] == [1.0] * 3 and overlap[3:] == [0.0] * 5


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (None, [], "bench.jsonl: no such file"),
        ("{\n", [], "bench.jsonl: line 1: not JSON"),
        ('{"a": "text"}\n', ["--column", "b"], "line 1: no b; there is a"),
        ('{"a": 3}\n', [], "no text in it"),
        ('{"a": "text"}\n', ["--ngram", "1"], "--ngram 1"),
        ('{"a": "text"}\n', ["--corpus", "other"], "no corpus 'other' here; built: own"),
    ],
)
def test_a_benchmark_that_cannot_be_read(
    home: Path, tmp_path: Path, content: str | None, options: list[str], says: str
) -> None:
    if content is not None:
        (tmp_path / "bench.jsonl").write_text(content)
    done = sixnd("corpus", "contamination", str(tmp_path / "bench.jsonl"), *options, cwd=home, code=2)
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


GOOD_ROW = json.dumps({"text": make_documents(1)[0].text})
BOMB = gzip.compress(b"word " * 4_000_000)  # 20 MB in 20 kB


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("a.jsonl", '{"body": "x"}', "body"),
        ("a.txt", b"", "none with anything in it"),
        ("a.txt", b"PK\x03\x04\0\0binary", "binary"),
        ("a.txt.gz", b"\x1f\x8b\x08\0nothing of the kind", "a.txt.gz"),
        ("a.jsonl.gz", gzip.compress(GOOD_ROW.encode() * 50)[:-20], "a.jsonl.gz"),
        ("a.txt", b"caf\xe9 au lait", "UTF-8"),
        ("a.txt.gz", BOMB, "max_document_bytes"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "' + b"word " * 4_000_000 + b'"}'), "max_document_bytes"),
        ("a.txt", b"word " * 4_000_000, "max_document_bytes"),
        ("a.jsonl", GOOD_ROW + "\n{", "a.jsonl"),
        ("a.docx", b"x", "a.docx"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_bad_text_is_one_line_and_no_corpus(tmp_path: Path, file: str, content: str | bytes, says: str) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / file).write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "own.toml").write_text(OWN.replace("*.jsonl", "*"))
    done = sixnd("corpus", "build", "own.toml", "--processes", "1", cwd=tmp_path, code=2)
    assert says in done.stderr and len(done.stderr.splitlines()) == 1 and len(done.stderr) < 400
    assert not list(tmp_path.glob("corpora/*/manifest.json"))


def test_max_bytes_ends_an_endless_file(tmp_path: Path) -> None:
    """A .jsonl.gz that unpacks to far more than max_bytes is read only as far as it is needed."""
    (tmp_path / "text").mkdir()
    rows = "\n".join(json.dumps({"text": document.text}) for document in make_documents(500))
    (tmp_path / "text" / "a.jsonl.gz").write_bytes(gzip.compress(f"{rows}\n".encode() * 40) + b"broken from here on")
    (tmp_path / "own.toml").write_text(OWN.replace("*.jsonl", "*"))
    caps = ("sources.0.max_bytes=20kB", "test_bytes=5kB")
    sixnd("corpus", "build", "own.toml", *caps, "--processes", "1", cwd=tmp_path)
    assert list(tmp_path.glob("corpora/*/manifest.json"))


def test_no_process_at_all_is_refused(home: Path) -> None:
    done = sixnd("corpus", "build", "own.toml", "--processes", "0", cwd=home, code=2)
    assert "--processes 0: at least 1" in done.stderr
