"""Builds that were stopped, raced or damaged: whole or absent, resumed where they stopped, and one line where something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sixnd.train.corpus import encode, prepare
from sixnd.train.corpus.build import build_from_sources, corpus_hash, open_corpus
from sixnd.train.corpus.find import find_corpus
from sixnd.train.corpus.sources import Document
from sixnd.train.corpus.spec import BuildStopped, CorpusError
from sixnd.train.corpus.store import Corpus, damaged_files

from tests.conftest import make_documents, make_source, tiny_spec

ROOT = Path(__file__).parents[3]
SPEC = tiny_spec("a", "b")
SOURCES = [make_source(make_documents(60, 0, "a"), "a"), make_source(make_documents(60, 1, "b"), "b")]


def quiet(_: str) -> None: ...


def built(root: Path | None) -> Corpus:
    return build_from_sources(SPEC, SOURCES, root, quiet, 1)


def child(root: Path, before: str = "", processes: int = 1) -> subprocess.Popen[str]:
    """A process that builds SPEC on SOURCES under `root`, after the lines `before`, and prints what it says."""
    code = f"""
import os, signal, time
from pathlib import Path
from sixnd.train.corpus import build, encode, prepare, select, store, workspace
from tests.train.corpus.test_recovery import SOURCES, SPEC
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
{before}
if __name__ == "__main__":
    build.build_from_sources(SPEC, SOURCES, Path({str(root)!r}), processes={processes})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return built(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    "moment",
    [
        "build.read = die",
        "build.prepare = lambda w, i, *a: die() if i == 1 else prepare.prepare(w, i, *a)",
        "prepare.sync = lambda path: die() if 'clean' in path.name else None",
        "build.select = die",
        "build.find_overlaps = die",
        "encode.train_tokenizer = die",
        "encode.ShardWriter = die",
        "store.ShardWriter.close = die",
        "build.Manifest = die",
        "build.sync = lambda path: die() if path.name == 'manifest.json' else None",
        "workspace.sync = lambda path: die() if 'overlaps' in path.name else None",
        "Path.rename = die",
        "build.shutil.rmtree = die",
    ],
)
def test_killed_at_any_step_it_goes_on_to_the_same_bytes(tmp_path: Path, moment: str, undisturbed: Corpus) -> None:
    process = child(tmp_path, moment)
    process.communicate(timeout=60)
    assert process.returncode == -9
    name = corpus_hash(SPEC, SOURCES)
    if "rmtree" not in moment:
        with pytest.raises(CorpusError, match="no corpus here"):
            open_corpus(name, tmp_path)
        with pytest.raises(CorpusError, match="built: none"):
            find_corpus(None, tmp_path)
    resumed = built(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [name]
    assert (resumed.path / "manifest.json").read_bytes() == (undisturbed.path / "manifest.json").read_bytes()
    assert list(damaged_files(resumed)) == []


def test_finished_steps_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at the tokenizer, the build needs neither its sources nor its cleaning any more."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encode, "train_tokenizer", stopped)
        built(tmp_path)

    def gone() -> Iterator[Document]:
        raise AssertionError("the source was read again")

    monkeypatch.setattr(prepare, "Work", stopped)
    resumed = build_from_sources(SPEC, [replace(source, documents=gone) for source in SOURCES], tmp_path, quiet, 1)
    assert list(damaged_files(resumed)) == []


def test_a_step_finished_by_another_version_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Corpus
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encode, "train_tokenizer", stopped)
        built(tmp_path)
    (receipt,) = tmp_path.glob("*/select.receipt.json")
    receipt.write_text('{"of": "old"}')
    assert built(tmp_path).manifest == undisturbed.manifest


def test_two_builders_at_once_build_once(tmp_path: Path) -> None:
    slow = "original = encode.train_tokenizer\nencode.train_tokenizer = lambda *a: (time.sleep(1), original(*a))[1]"
    builders = [child(tmp_path, slow) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in builders]
    assert [process.returncode for process in builders] == [0, 0]
    assert sum("tokenizer of" in lines for lines in said) == 1
    assert list(damaged_files(open_corpus(corpus_hash(SPEC, SOURCES), tmp_path))) == []


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\nfrom pathlib import Path\nfrom sixnd.train.corpus.workspace import Workspace\n"
        "def die(_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        f"    list(Workspace(Path({str(tmp_path)!r}), 2, print).map(die, range(20)))\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)
    assert "BuildStopped: a worker process was killed" in done.stderr


def test_workers_go_with_a_killed_builder(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\nfrom pathlib import Path\nfrom sixnd.train.corpus.workspace import Workspace\n"
        "def wait(_): print(os.getpid(), flush=True); time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        f"    list(Workspace(Path({str(tmp_path)!r}), 2, print).map(wait, range(20)))\n"
    )
    builder = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    workers = [int(builder.stdout.readline()) for _ in range(2)]
    builder.kill()
    builder.wait()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(worker, 0)
                subprocess.run(["sleep", "0.05"], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, undisturbed: Corpus) -> None:
    """One line, no corpus that looks finished, and with more room the same command goes on to the same bytes."""
    with pytest.raises(BuildStopped, match="No space left on device; finished steps are kept") as error:
        built(small_disk)
    assert "\n" not in str(error.value)
    with pytest.raises(CorpusError, match="no corpus here"):
        open_corpus(corpus_hash(SPEC, SOURCES), small_disk)
    assert list(small_disk.glob("*.unfinished/*.receipt.json"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resumed = built(small_disk)
    assert (resumed.path / "manifest.json").read_bytes() == (undisturbed.path / "manifest.json").read_bytes()


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="a file stands where the folder"):
        built(tmp_path / "file")


def _of_another_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 999}))


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "train-00000.bin").read_bytes())
    content[10] ^= 1
    (folder / "train-00000.bin").write_bytes(content)


def test_a_flipped_bit_is_found_by_its_file(tmp_path: Path) -> None:
    corpus = built(tmp_path)
    _flip_a_bit(corpus.path)
    assert list(damaged_files(corpus)) == ["train-00000.bin"]


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
    corpus = built(tmp_path)
    damage(corpus.path)
    with pytest.raises(CorpusError, match=named) as error:
        built(tmp_path)
    message = str(error.value)
    assert "\n" not in message and "move the folder away" in message
    with pytest.raises(CorpusError):
        open_corpus(corpus.hash, tmp_path)
    corpus.path.rename(tmp_path / "away")  # what the message says does help
    assert list(damaged_files(built(tmp_path))) == []


@pytest.mark.parametrize("name", ["", ".", "no-such-corpus"])
def test_a_mistyped_name_is_only_not_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="no corpus here; build it with"):
        open_corpus(name, tmp_path)


def test_a_corpus_is_found_by_hash_name_or_folder(tmp_path: Path) -> None:
    corpus = built(tmp_path)
    for name in (corpus.hash, "tiny", str(corpus.path), None):
        assert find_corpus(name, tmp_path).path == corpus.path
    build_from_sources(SPEC.model_copy(update={"vocab_size": 290}), SOURCES, tmp_path, quiet, 1)
    with pytest.raises(CorpusError, match="2 corpora fit 'tiny'; name one by its hash"):
        find_corpus("tiny", tmp_path)


def test_the_default_root_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIXND_CORPORA", str(tmp_path))
    corpus = built(None)
    assert corpus.path.parent == tmp_path and open_corpus(corpus.hash).hash == open_corpus(str(corpus.path)).hash
