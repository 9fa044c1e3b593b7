"""Hub datasets: a folder in hub layout, a hub played by a small server, and a hub that does not answer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

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


# --- a hub that a small server plays -----------------------------------------------------------------------------------


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A child, because the hub's libraries read the environment when they are imported."""
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", **environment}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)


CHILD = """
import json, sys, time
from pathlib import Path
from sixnd.train.corpus.sources.hub import read_hub
from sixnd.train.corpus.spec import CorpusError, HubSource
root, cases = json.loads(sys.argv[1] if len(sys.argv) > 1 else CASES)
for case in cases:
    started = time.perf_counter()
    try:
        source = read_hub(HubSource(kind="hub", **case), 100_000, Path(root))
        answer = [source.version, [document.text for document in source.documents()]]
    except CorpusError as error:
        answer = str(error)
    print(json.dumps([answer, time.perf_counter() - started]))
"""


def ask(root: Path, cases: list[dict[str, object]], **environment: str) -> list[tuple[list[object] | str, float]]:
    """For each case the commit and the texts, or the one line that refuses it; and the seconds it took."""
    child = run(f"CASES = {json.dumps([str(root), cases])!r}\n{CHILD}", HF_HOME=str(root / "home"), **environment)
    assert child.returncode == 0, child.stderr
    answers = [json.loads(line) for line in child.stdout.splitlines()]
    assert not any(isinstance(answer, str) and "\n" in answer for answer, _ in answers)
    return [(answer, seconds) for answer, seconds in answers]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as `datasets` asks for: the repository owner/small at one commit, and one that is gated."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match = re.fullmatch(r"/(?:api/)?datasets/owner/(small|gated)(?:/(\w+)/(\w+)/?([^?]*))?(?:\?.*)?", self.path)
        if match is None:
            return self.reply(404, b'{"error": "Repository not found"}', "RepoNotFound")
        name, verb, revision, path = match.groups()
        if revision not in (None, COMMIT):
            return self.reply(404, b'{"error": "Invalid rev id"}', "RevisionNotFound")
        if verb in (None, "revision"):
            return self.reply(200, json.dumps({"id": f"owner/{name}", "sha": COMMIT, "tags": []}).encode())
        if name == "gated":
            return self.reply(401, b'{"error": "Access is restricted"}', "GatedRepo")
        place = self.folder / path
        if verb == "tree" and place.is_dir():
            return self.reply(200, json.dumps([self.entry(child) for child in sorted(place.iterdir())]).encode())
        if verb == "resolve" and place.is_file():
            return self.send_file(place)
        return self.reply(404, b"{}", "EntryNotFound")

    do_HEAD = do_POST = do_GET

    def entry(self, path: Path) -> dict[str, object]:
        kind = "directory" if path.is_dir() else "file"
        oid = hashlib.sha1(str(path).encode()).hexdigest()
        return {"type": kind, "path": path.relative_to(self.folder).as_posix(), "size": path.stat().st_size, "oid": oid}

    def send_file(self, path: Path) -> None:
        data = path.read_bytes()
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            content_range = f"bytes {first}-{last}/{len(data)}"
            return self.reply(206, data[first : last + 1], ETag=etag, Content_Range=content_range)
        return self.reply(200, data, ETag=etag)

    def reply(self, status: int, body: bytes, error: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X_Repo_Commit": COMMIT, "X_Error_Code": error, **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    Hub.folder = make_repository(tmp_path / "repository")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


SMALL = {"path": "owner/small", "name": "one"}


def test_the_hub_and_then_its_cache_alone(hub: str, tmp_path: Path) -> None:
    expected = [COMMIT, [f"train-{shard} {i}" for shard in (0, 1) for i in range(ROWS)]]
    cases: list[tuple[dict[str, object], object]] = [
        (SMALL, expected),
        ({**SMALL, "streaming": False, "revision": COMMIT}, expected),
        ({**SMALL, "revision": OTHER_COMMIT}, f"no commit {OTHER_COMMIT} in owner/small"),
        ({**SMALL, "name": None}, "set name to one of: one, two"),
        ({**SMALL, "split": "dev"}, "no split 'dev'; set split to one of: train, test"),
        ({**SMALL, "text_column": "body"}, "set text_column to one of: text, n"),
        ({"path": "owner/none"}, "no dataset owner/none on the hub"),
        (
            {"path": "owner/gated"},
            "owner/gated is gated: accept its terms on its page, then log in with `hf auth login`",
        ),
        ({"path": "no/such/folder"}, "path 'no/such/folder' is neither owner/dataset nor a local folder"),
    ]
    answers = ask(tmp_path, [case for case, _ in cases], HF_ENDPOINT=hub)
    for (case, wanted), (answer, _) in zip(cases, answers, strict=True):
        assert answer == wanted if isinstance(wanted, list) else str(wanted) in answer, case
    assert json.loads((tmp_path / "revisions.json").read_text()) == {"owner/small": COMMIT, "owner/gated": COMMIT}

    cases = [  # the cache that the second case filled
        (SMALL, expected),
        ({**SMALL, "streaming": False}, expected),
        ({**SMALL, "revision": OTHER_COMMIT}, f"the local cache holds commit {COMMIT}, not {OTHER_COMMIT}"),
        ({**SMALL, "name": None}, "the local cache holds the configuration 'one'"),
        ({**SMALL, "name": "two"}, "HF_HUB_OFFLINE is set and the local cache does not serve it"),
        ({"path": "owner/none", "revision": COMMIT}, "HF_HUB_OFFLINE is set and the local cache does not serve it"),
        ({"path": "owner/none"}, "HF_HUB_OFFLINE is set and no commit is known; set revision"),
    ]
    answers = ask(tmp_path, [case for case, _ in cases], HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    for (case, wanted), (answer, seconds) in zip(cases, answers, strict=True):
        assert answer == wanted if isinstance(wanted, list) else str(wanted) in answer, case
        assert seconds < 5


def test_a_remembered_commit_is_used_before_a_newer_one(hub: str, tmp_path: Path) -> None:
    (tmp_path / "revisions.json").write_text(json.dumps({"owner/small": OTHER_COMMIT}))
    ((answer, _),) = ask(tmp_path, [SMALL], HF_ENDPOINT=hub)
    assert f"no commit {OTHER_COMMIT}" in answer
    for broken in ("{", "[]"):
        (tmp_path / "revisions.json").write_text(broken)
        ((answer, _),) = ask(tmp_path, [SMALL], HF_ENDPOINT=hub)
        assert "revisions.json" in answer and "remove it" in answer


@pytest.mark.parametrize("answers", ["not at all", "never"])
def test_a_hub_out_of_reach_is_one_line_in_under_five_seconds(tmp_path: Path, answers: str) -> None:
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        if answers == "never":
            server.listen()  # accepts, and says nothing
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        cases: list[dict[str, object]] = [{**SMALL, "revision": COMMIT}] if answers == "never" else [SMALL]
        ((message, seconds),) = ask(tmp_path, cases, HF_ENDPOINT=endpoint)
    assert seconds < 5
    assert f"{endpoint} cannot be reached" in message
    assert all(advice in message for advice in ("HF_ENDPOINT", "HF_HUB_OFFLINE=1", 'kind = "files"'))
    assert not (tmp_path / "revisions.json").exists()


def test_a_known_commit_names_the_source_without_a_hub(tmp_path: Path) -> None:
    spec = HubSource(kind="hub", path="owner/small", revision=COMMIT)
    names = {
        read_hub(spec, LIMIT, tmp_path).sha256,
        read_hub(spec.model_copy(update={"revision": OTHER_COMMIT}), LIMIT, tmp_path).sha256,
    }
    assert len(names) == 2 and not (tmp_path / "revisions.json").exists()
