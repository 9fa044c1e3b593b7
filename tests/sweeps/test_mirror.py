"""Checkpoints and corpora through a store: whole or absent, sound or passed over, and removed once superfluous."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from sixnd.sweeps.executors.mirror import Store, TrunkMirror, pull_corpus, push_corpus
from sixnd.sweeps.toml import SpecError
from sixnd.train.checkpoint import read_checkpoint, write_checkpoint
from sixnd.train.corpus.manifest import MANIFEST
from sixnd.train.corpus.spec import CorpusError
from sixnd.train.corpus.store import Corpus, damaged_files, read_corpus
from sixnd.train.spec import RunSpec


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "file":
        yield Store((tmp_path / "store").as_uri())
    else:
        yield Store("memory://bucket/sweeps")
        fsspec.filesystem("memory").store.clear()


def checkpoint(root: Path, spec: RunSpec, name: str) -> Path:
    path = root / spec.trunk_key / name
    write_checkpoint(path, {"key": spec.trunk_key, "state": {"name": name}})
    return path


def test_a_file_goes_there_and_back_and_leaves_nothing_half(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 1000)
    store.put(tmp_path / "a", "checkpoints/t/a.pt")
    store.put(tmp_path / "a", "checkpoints/t/a.pt")  # once more is no error
    assert store.names("checkpoints") == {"checkpoints/t/a.pt"}
    store.get("checkpoints/t/a.pt", tmp_path / "back" / "a")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["a"]
    assert (tmp_path / "back" / "a").read_bytes() == b"1" * 1000
    store.remove("checkpoints/t")
    store.remove("checkpoints/t")
    assert store.names("checkpoints") == set()


def test_an_upload_that_fails_is_not_seen(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"new")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.fs, "mv", full)
    with pytest.raises(OSError, match="No space"):
        store.put(tmp_path / "a", "checkpoints/t/a.pt")
    assert not [path for path in store.fs.find(store.root) if "a.pt" in path]


def test_a_corpus_is_put_once_and_arrives_whole(store: Store, corpus: Corpus, tmp_path: Path) -> None:
    push_corpus(store, corpus.path.parent, corpus.hash)
    pull_corpus(store, tmp_path / "node", corpus.hash)
    pulled = read_corpus(tmp_path / "node" / corpus.hash)
    assert pulled.manifest == corpus.manifest and not list(damaged_files(pulled))
    store.remove("corpora")
    pull_corpus(store, tmp_path / "node", corpus.hash)  # it is here already
    with pytest.raises(CorpusError, match="no corpus in the store"):
        pull_corpus(store, tmp_path / "other", corpus.hash)


def test_a_corpus_half_put_is_put_again_and_a_damaged_one_is_refused(
    store: Store, corpus: Corpus, tmp_path: Path
) -> None:
    push_corpus(store, corpus.path.parent, corpus.hash)
    store.remove(f"corpora/{corpus.hash}/{MANIFEST}")
    with pytest.raises(CorpusError, match="no corpus in the store"):
        pull_corpus(store, tmp_path / "node", corpus.hash)
    push_corpus(store, corpus.path.parent, corpus.hash)
    shard = corpus.manifest.train_shards[0].file
    content = bytearray((corpus.path / shard).read_bytes())
    content[5] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    store.put(tmp_path / "damaged", f"corpora/{corpus.hash}/{shard}")
    with pytest.raises(CorpusError, match=f"damaged in the store: {shard}"):
        pull_corpus(store, tmp_path / "node", corpus.hash)
    assert not (tmp_path / "node" / corpus.hash).exists()


def test_the_newest_sound_checkpoint_of_use_is_pulled(store: Store, run_spec: RunSpec, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    branch = run_spec.branch_step
    names = ["branch-000000004.pt", f"periodic-{branch - 2:09d}.pt", f"periodic-{branch - 1:09d}.pt"]
    for name in names:
        checkpoint(there, run_spec, name)
    beyond = checkpoint(there, run_spec, f"periodic-{branch + 1:09d}.pt")  # of a longer run: no start for this one
    damaged = there / run_spec.trunk_key / names[2]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    TrunkMirror(store, there, run_spec).push()
    TrunkMirror(store, here, run_spec).pull()
    assert [path.name for path in (here / run_spec.trunk_key).iterdir()] == [names[1]]
    assert read_checkpoint(here / run_spec.trunk_key / names[1])["state"] == {"name": names[1]}
    own = f"checkpoints/{run_spec.trunk_key}/{run_spec.key}/periodic-{branch + 2:09d}.pt"
    store.put(beyond, own)  # of its own cooldown, which is newer than any of the trunk
    TrunkMirror(store, here, run_spec).pull()
    assert (here / own.removeprefix("checkpoints/")).exists()


def test_the_store_follows_what_is_saved_and_removed(store: Store, run_spec: RunSpec, tmp_path: Path) -> None:
    trunk = f"checkpoints/{run_spec.trunk_key}"
    others = checkpoint(tmp_path / "other", run_spec, "branch-000000009.pt")
    store.put(others, f"{trunk}/{others.name}")
    mirror = TrunkMirror(store, tmp_path / "here", run_spec)
    with mirror.following():
        first = checkpoint(tmp_path / "here", run_spec, "periodic-000000001.pt")
    assert store.names("checkpoints") == {f"{trunk}/{others.name}", f"{trunk}/{first.name}"}
    first.unlink()
    checkpoint(tmp_path / "here", run_spec, "branch-000000002.pt")
    mirror.push()
    assert store.names("checkpoints") == {f"{trunk}/{others.name}", f"{trunk}/branch-000000002.pt"}, (
        "what another node put there stays"
    )


def test_a_store_out_of_reach_costs_no_run(
    run_spec: RunSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store((tmp_path / "store").as_uri())
    mirror = TrunkMirror(store, tmp_path / "here", run_spec)
    checkpoint(tmp_path / "here", run_spec, "periodic-000000001.pt")

    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("no route")

    with monkeypatch.context() as broken:
        broken.setattr(store.fs, "put_file", unreachable)
        with mirror.following():
            pass
    assert "RuntimeError: no route" in capfd.readouterr().err
    mirror.push()
    assert len(store.names("checkpoints")) == 1


def test_a_url_of_no_known_kind_is_one_line() -> None:
    with pytest.raises(SpecError, match=r"ray\.store = 'nowhere://x': "):
        Store("nowhere://x")


def test_what_is_pulled_again_after_the_cache_was_cleared_is_the_same(
    store: Store, run_spec: RunSpec, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "here", run_spec, "branch-000000003.pt")
    before = path.read_bytes()
    mirror = TrunkMirror(store, tmp_path / "here", run_spec)
    mirror.push()
    shutil.rmtree(tmp_path / "here")
    mirror.pull()
    assert path.read_bytes() == before
