"""The hub itself, played by a small server: commits, caches, and a hub that is out of reach."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sixnd.train.corpus.sources.hub import read_hub
from sixnd.train.corpus.spec import HubSource

from tests.train.corpus.test_hub import COMMIT, LIMIT, OTHER_COMMIT, ROWS, make_repository, run

# --- a hub that a small server plays -----------------------------------------------------------------------------------


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
