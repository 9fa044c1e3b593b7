"""Hub datasets: a folder in hub layout, a hub played by a small server, and a hub that does not answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sixnd.train.corpus.sources import Document, Source
from sixnd.train.corpus.sources.hub import join_articles, read_hub
from sixnd.train.corpus.spec import CorpusError, HubSource

LIMIT = 100_000
COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
ROWS = 40
CARD = """---
configs:
- config_name: one
  data_files: [{split: train, path: one/train-*}, {split: test, path: one/test-*}]
- config_name: two
  data_files: [{split: train, path: two/*}]
---
Made up.
"""


def make_repository(folder: Path) -> Path:
    """Two configurations: `one` of two shards and a test split, `two` with another column."""
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
    for shard in ("train-0", "train-1", "test-0"):
        rows = {"text": [f"{shard} {i}" for i in range(ROWS)], "n": list(range(ROWS))}
        pq.write_table(pa.table(rows), folder / "one" / f"{shard}.parquet", row_group_size=7)
    pq.write_table(pa.table({"body": [f"two {i}" for i in range(ROWS)]}), folder / "two" / "a.parquet")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # seconds after every shuffled reading
    return make_repository(tmp_path / "made-up")


def source(folder: Path | str, limit: int = LIMIT, **settings: object) -> Source:
    spec = {"kind": "hub", "path": str(folder), "name": "one", **settings}
    return read_hub(HubSource.model_validate(spec), limit, Path(folder).parent / "corpora")


def texts(folder: Path | str, **settings: object) -> list[str]:
    return [d.text for d in source(folder, **settings).documents()]


def refusal(folder: Path | str, limit: int = LIMIT, **settings: object) -> str:
    with pytest.raises(CorpusError) as error:
        list(source(folder, limit, **settings).documents())
    message = str(error.value)
    assert "\n" not in message and message.startswith("source ")
    return message


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A child, because the hub's libraries read the environment when they are imported."""
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", **environment}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)


# --- a local folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_in_hub_layout(folder: Path, streaming: bool) -> None:
    found = source(folder, streaming=streaming, licence="CC0-1.0")
    documents = list(found.documents())
    assert [d.text for d in documents] == [f"train-{shard} {i}" for shard in (0, 1) for i in range(ROWS)]
    assert documents[0] == Document("made-up/one", "train#1", "train-0 0")
    assert found.licence == "CC0-1.0" and found.version.startswith("folder ")
    assert texts(folder, streaming=streaming, split="test")[0] == "test-0 0"
    assert texts(folder, streaming=streaming, name="two", text_column="body")[-1] == f"two {ROWS - 1}"


@pytest.mark.parametrize("settings", [{"streaming": False}, {"shuffle_buffer": 16}, {"shuffle_buffer": 10_000}])
def test_a_seed_decides_the_order(folder: Path, settings: dict[str, object]) -> None:
    plain = texts(folder)
    first, again = (texts(folder, shuffle_seed=1, **settings) for _ in range(2))
    other = texts(folder, shuffle_seed=2, **settings)
    assert first == again and sorted(first) == sorted(plain)
    assert first != plain and first != other


def test_what_decides_the_documents_decides_the_identity(folder: Path) -> None:
    settings: list[dict[str, object]] = [
        {},
        {"name": "two"},
        {"split": "test"},
        {"text_column": "n"},
        {"streaming": False},
        {"shuffle_seed": 1},
        {"shuffle_seed": 1, "shuffle_buffer": 5},
        {"regroup": "wikitext"},
    ]
    digests = [source(folder, **setting).sha256 for setting in settings]
    moved = folder.rename(folder.with_name("moved"))
    assert [source(moved, **setting).sha256 for setting in settings] == digests
    assert source(moved, max_bytes=5, weight=2.0, licence="?").sha256 == digests[0]
    (moved / "one" / "train-0.parquet").write_bytes((moved / "one" / "test-0.parquet").read_bytes())
    assert len({*digests, source(moved).sha256}) == len(digests) + 1


def test_nulls_are_empty_texts(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["one", None]}), folder / "one" / "test-0.parquet")
    assert texts(folder, split="test") == ["one", ""]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "three"}, "made-up/three: no configuration 'three'; set name to one of: one, two"),
        ({"name": None}, "made-up: several configurations; set name to one of: one, two"),
        ({"split": "dev"}, "made-up/one: no split 'dev'; set split to one of: train, test"),
        ({"text_column": "body"}, "made-up/one: no column 'body'; set text_column to one of: text, n"),
        ({"name": "two"}, "made-up/two: no column 'text'; set text_column to one of: body"),
        ({"text_column": "n"}, "made-up/one: 'n' holds a int, not a string; set text_column to another"),
        ({"revision": COMMIT}, "a local folder, which has no revision; leave revision out"),
        ({"regroup": "wikitext", "shuffle_seed": 1}, "regroup needs the lines in their order; leave out shuffle_seed"),
        ({"limit": 8}, "train#1: a document of 9 bytes, above max_document_bytes = 8"),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
def test_what_is_wrong_is_named_with_what_is_allowed(
    folder: Path, streaming: bool, settings: dict[str, object], message: str
) -> None:
    assert message in refusal(folder, streaming=streaming, **settings)


def test_a_folder_with_a_script_is_not_run(folder: Path) -> None:
    (folder / "made-up.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert "loading script, which is code and never run" in refusal(folder)
    assert not (folder / "ran").exists()


def test_a_broken_shard_is_one_line(folder: Path) -> None:
    shard = folder / "one" / "train-1.parquet"
    data = bytearray(shard.read_bytes())
    data[4:60] = b"\xff" * 56
    shard.write_bytes(data)
    refusal(folder)


def test_a_folder_of_json_lines_whose_columns_nobody_declares(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    rows = [{"text": f"line {i}", "n": i} for i in range(ROWS)]
    (tmp_path / "lines" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert texts(tmp_path / "lines", name=None)[1] == "line 1"
    assert "no column 'body'; set text_column to one of: text, n" in refusal(
        tmp_path / "lines", name=None, text_column="body"
    )


def test_a_reader_left_half_read_ends_in_silence(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "made-up")
    rows = pa.table({"text": [f"row {i}" for i in range(5000)]})
    for shard in range(4):
        pq.write_table(rows, folder / "one" / f"train-{shard}.parquet", row_group_size=50)
    code = f"""
import datasets
from itertools import islice
from pathlib import Path
from sixnd.train.corpus.sources.hub import read_hub
from sixnd.train.corpus.spec import HubSource
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
datasets.left = left = []
for settings in ({{"name": "one"}}, {{"name": "one", "shuffle_seed": 1}}):
    spec = HubSource(kind="hub", path={str(folder)!r}, **settings)
    left.append(read_hub(spec, 1000, Path()).documents())
    print(len(list(islice(left[-1], 3))))
"""
    child = run(code, HF_HOME=str(tmp_path / "home"))
    assert (child.returncode, child.stdout, child.stderr) == (0, "3\n3\n", "")


# --- wikitext ----------------------------------------------------------------------------------------------------------

WIKITEXT = [
    "",
    " = One = \n",
    "",
    " First . \n",
    "",
    " = = Part = = \n",
    "",
    " Second . \n",
    " = 2 = \n",
    "",
    " = Two = \n",
    " Third . ",
]


def test_lines_become_articles() -> None:
    articles = [" = One = \n\n First . \n\n = = Part = = \n\n Second . \n = 2 = ", " = Two = \n Third . "]
    assert list(join_articles(WIKITEXT, "w", LIMIT)) == articles
    assert list(join_articles([], "w", LIMIT)) == list(join_articles(["", ""], "w", LIMIT)) == []
    with pytest.raises(
        CorpusError, match=r"^source w: the article that starts with ' = One = ': .* above max_document_bytes = 40"
    ):
        list(join_articles(WIKITEXT, "w", 40))


def test_regrouped_rows(folder: Path) -> None:
    pq.write_table(pa.table({"text": WIKITEXT}), folder / "one" / "test-0.parquet", row_group_size=2)
    assert [text.split("\n")[0] for text in texts(folder, split="test", regroup="wikitext")] == [
        " = One = ",
        " = Two = ",
    ]
