"""Local files: every kind gives its documents, and whatever is wrong with one ends in one line that names it."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sixnd.train.corpus.sources import Document, Source
from sixnd.train.corpus.sources.files import PATIENCE, read_files
from sixnd.train.corpus.spec import CorpusError, FilesSource

from tests.conftest import make_documents

LIMIT = 100_000
TEXTS = [d.text for d in make_documents(30)] + ["naïve 日本語 😀"]


def source(tmp_path: Path, *paths: str, limit: int = LIMIT, **settings: str) -> Source:
    spec = {"kind": "files", "name": "mine", "paths": [str(tmp_path / path) for path in paths], **settings}
    return read_files(FilesSource.model_validate(spec), limit)


def documents(tmp_path: Path, *paths: str, limit: int = LIMIT, **settings: str) -> list[Document]:
    return list(source(tmp_path, *paths, limit=limit, **settings).documents())


def refusal(tmp_path: Path, *paths: str, limit: int = LIMIT, **settings: str) -> str:
    with pytest.raises(CorpusError) as error:
        documents(tmp_path, *paths, limit=limit, **settings)
    message = str(error.value)
    assert "\n" not in message and message.startswith("source mine: ")
    return message


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def jsonl(rows: list[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_of(texts: list[str]) -> bytes:
    return ("id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts))).encode()


TABLES: dict[str, Callable[[list[str]], bytes]] = {
    ".jsonl": lambda texts: jsonl([{"id": i, "text": text} for i, text in enumerate(texts)]),
    ".csv": csv_of,
}
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("ending", TABLES)
def test_a_document_a_row(tmp_path: Path, ending: str, packed: str) -> None:
    (tmp_path / f"a{ending}{packed}").write_bytes(PACKED[packed](TABLES[ending](TEXTS)))
    found = documents(tmp_path, "a*")
    assert [d.text for d in found] == TEXTS
    assert [d.id for d in found[:2]] == [f"a{ending}{packed}#1", f"a{ending}{packed}#2"]
    assert {d.source for d in found} == {"mine"}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("ending", [".txt", ".md", ".TXT"])
def test_a_document_a_file(tmp_path: Path, ending: str, packed: str) -> None:
    (tmp_path / f"a{ending}{packed}").write_bytes(PACKED[packed](b"\xef\xbb\xbf one\n\ntwo \n"))
    assert documents(tmp_path, "*") == [Document("mine", f"a{ending}{packed}", " one\n\ntwo \n")]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"id": range(len(TEXTS)), "body": pa.array(TEXTS).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    assert [d.text for d in documents(tmp_path, "a.parquet", text_column="body")] == TEXTS


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_a_separator_cuts_wherever_blocks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("sixnd.train.corpus.sources.streams.BLOCK_BYTES", block)
    (tmp_path / "a.txt").write_text("<|end|>one\n<|end|>\ntwö <|en <|end|><|end|> \n<|end|>three")
    found = documents(tmp_path, "a.txt", separator="<|end|>")
    assert [(d.id, d.text) for d in found] == [("a.txt#1", "one"), ("a.txt#2", "twö <|en"), ("a.txt#3", "three")]


def test_compressed_members_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    for name, pack in PACKED.items():
        (tmp_path / f"a.txt{name}").write_bytes(pack(b"one ") + pack(b"two"))
    assert {d.text for d in documents(tmp_path, "*")} == {"one two"}


def test_globs_are_sorted_and_each_file_is_read_once(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a/deep/er/3.txt", "4.txt", "c/5.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = [d.id for d in documents(tmp_path, "b/*.txt", "**/*.txt", "4.txt")]
    assert found == ["4.txt", "a/deep/er/3.txt", "b/1.txt", "b/2.txt"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("one")
    assert [d.id for d in documents(tmp_path, "a[1].txt")] == ["a[1].txt"]


def test_the_digest_is_of_names_and_contents_wherever_they_lie(tmp_path: Path) -> None:
    def digest(files: dict[str, str], folder: str) -> str:
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        return source(tmp_path, f"{folder}/**/*.txt").sha256

    same = {digest({"x/a.txt": "1", "x/b.txt": "2"}, folder) for folder in ("here", "there")}
    others = {digest({"x/a.txt": "12", "x/b.txt": ""}, "o1"), digest({"x/a.txt": "1", "x/c.txt": "2"}, "o2")}
    assert len(same) == 1 and len(same | others) == 3


def test_nulls_and_absent_keys_are_empty_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        jsonl([{"id": 1}, {"text": None}, {"text": "one"}]) + b"\n \n" + jsonl([{"text": "two"}])
    )
    (tmp_path / "b.csv").write_text("id,text\n1\n2,three\n")
    pq.write_table(pa.table({"text": [None, "four"]}), tmp_path / "c.parquet")
    assert [d.text for d in documents(tmp_path, "*")] == ["", "", "one", "two", "", "three", "", "four"]


def test_halves_of_surrogate_pairs_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud800 b \\ud83d\\ude00"}\n')
    assert documents(tmp_path, "a.jsonl")[0].text == "a � b 😀"


def test_quoted_cells_keep_their_lines_and_may_be_long(tmp_path: Path) -> None:
    text = "a line\n" * 60_000
    (tmp_path / "a.csv").write_text(f'text,n\r\n"{text}",1\r\n"say ""it""",2\r\n', newline="")
    assert [d.text for d in documents(tmp_path, "a.csv", limit=10**6)] == [text, 'say "it"']


# --- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["none.txt", "*.txt", "sub"])
def test_a_path_that_matches_no_file_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("one")
    assert f"{path}' matches no file" in refusal(tmp_path, "a.md", path)


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.gz", "a.parquet.gz", "a.json"])
def test_an_unknown_ending_is_named_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("one")
    message = refusal(tmp_path, "*")
    assert f"{name}: unknown ending" in message and ".jsonl" in message


def test_only_empty_files(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).touch()
    assert "empty: 2 files" in refusal(tmp_path, "*")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "a.txt")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no mode stops
    assert "cannot be read" in refusal(tmp_path, "a.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv.gz", "a.md.zst"])
def test_a_binary_file(tmp_path: Path, name: str) -> None:
    pack = PACKED.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(b"\x7fELF\x02\x01\0\0" + bytes(range(256))))
    assert f"{name}: a binary file" in refusal(tmp_path, name)


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "changed", "not compressed"])
def test_broken_compression(tmp_path: Path, ending: str, packed: str, damage: str) -> None:
    rows = TABLES.get(ending, lambda texts: "\n".join(texts).encode())(TEXTS)
    data = bytearray(PACKED[packed](rows))
    if damage == "changed":
        data[len(data) // 2] ^= 0xFF
    broken = {"cut": data[:-20], "changed": data, "not compressed": rows}[damage]
    (tmp_path / f"a{ending}{packed}").write_bytes(broken)
    assert f"a{ending}{packed}: broken {packed}" in refusal(tmp_path, "a*")


def test_broken_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    assert "a.parquet: broken .parquet" in refusal(tmp_path, "a.parquet")


def test_invalid_utf8_is_found_by_file_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc \xff")
    (tmp_path / "b.txt").write_bytes(b"one--tw\xc3")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "\xe9"}\n'))
    assert "a.txt: invalid UTF-8 at byte 7" in refusal(tmp_path, "a.txt")
    assert "b.txt: invalid UTF-8 at byte 7" in refusal(tmp_path, "b.txt", separator="--")
    assert "c.jsonl.gz: invalid UTF-8 at byte 26" in refusal(tmp_path, "c.jsonl.gz")


@pytest.mark.parametrize("line", ['{"text": "one"', "{'text': 'one'}", '["one"]', '"one"', "[" * 100_000, "1" * 5000])
def test_a_broken_json_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one"}}\n\n{line}\n')
    assert "a.jsonl: line 3 is not " in refusal(tmp_path, "a.jsonl")


@pytest.mark.parametrize("rows", ['1,"never closed\n2,two\n', '1,"one" or\n'])
def test_broken_csv_is_named(tmp_path: Path, rows: str) -> None:
    (tmp_path / "a.csv").write_text("id,text\n" + rows)
    assert re.search(r"a\.csv: line \d is not CSV", refusal(tmp_path, "a.csv"))


@pytest.mark.parametrize(("value", "kind"), [(7, "int"), (["a"], "list"), ({"a": 1}, "dict"), (False, "bool")])
def test_a_text_that_is_no_string(tmp_path: Path, value: object, kind: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "one"}, {"text": value}]))
    assert f"a.jsonl: row 2: 'text' holds a {kind}, not a string" in refusal(tmp_path, "a.jsonl")
    pq.write_table(pa.table({"text": [value]}), tmp_path / "a.parquet")
    assert f"a.parquet: row 1: 'text' holds a {kind}, not a string" in refusal(tmp_path, "a.parquet")


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table({"id": [1], "text": ["one"]}), path)
    else:
        path.write_bytes(TABLES[ending](["one"]))
    message = refusal(tmp_path, "a*", text_column="body")
    assert f"a{ending}: no column 'body'" in message and message.endswith("one of: id, text")


def test_a_column_missing_for_long_is_not_waited_for(tmp_path: Path) -> None:
    rows: list[object] = [{"id": i} for i in range(PATIENCE)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows) + b"this line is never reached\n")
    assert "no column 'text'" in refusal(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes(jsonl([*rows[1:], {"text": "late"}]))
    assert documents(tmp_path, "b.jsonl")[-1].text == "late"


BIG = b"word " * 2_000_000  # 10 MB


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", BIG),
        ("a.jsonl", b'{"text": "' + BIG + b'"}\n'),
        ("a.csv", b"id,text\n1," + BIG + b"\n"),
        ("a.csv", b'id,text\n1,"' + BIG.replace(b"d ", b"d\n") + b'"\n'),
    ],
)
def test_a_document_above_the_limit_is_not_held(tmp_path: Path, name: str, data: bytes, packed: str) -> None:
    (tmp_path / f"{name}{packed}").write_bytes(PACKED[packed](data))
    tracemalloc.start()
    message = refusal(tmp_path, f"{name}{packed}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{name}{packed}" in message and "more than" in message and f"max_document_bytes = {LIMIT}" in message
    assert peak < 6_000_000


def test_the_limit_is_in_bytes_and_reached_without_being_passed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "é" * 50}]))
    (tmp_path / "b.txt").write_text("x" * 100)
    (tmp_path / "c.txt").write_text("one--" + "x" * 101)
    assert len(documents(tmp_path, "a.jsonl", "b.txt", limit=100)) == 2
    assert "a.jsonl#1: a document of 100 bytes" in refusal(tmp_path, "a.jsonl", limit=99)
    assert "b.txt: a document of more than 99 bytes" in refusal(tmp_path, "b.txt", limit=99)
    assert "c.txt after 1: a document of more than 100 bytes" in refusal(tmp_path, "c.txt", limit=100, separator="--")


def test_a_few_documents_cost_no_more_than_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl([{"text": "word " * 20}]) * 200_000, 1))
    found = source(tmp_path, "a.jsonl.gz")
    tracemalloc.start()
    assert len(list(islice(found.documents(), 100))) == 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # of 23 MB
