"""Checkpoints and corpora where nodes share no disk: each works in a folder of its own, which follows a store.

    <store>/corpora/<hash>/...            its manifest is put last: one that has a manifest is whole
    <store>/checkpoints/<trunk key>/...   as train/checkpoint.py names them

The store is any URL that fsspec opens: s3://bucket/folder, gs://…, file:///folder. Nothing there is believed unread:
a checkpoint's first line holds its checksum, a corpus' manifest those of its files.
"""

from __future__ import annotations

import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import fsspec
from filelock import FileLock

from ...train.corpus.manifest import MANIFEST
from ...train.corpus.spec import CorpusError
from ...train.corpus.store import damaged_files, read_corpus
from ...train.spec import RunSpec, Stack
from ..toml import SpecError

PUSH_EVERY_S = 1.0
PARTIAL = ".part"  # ends the name of what is on its way


class Store:
    """Files under a URL, by names such as `corpora/<hash>/manifest.json`; each is there whole or not at all."""

    def __init__(self, url: str) -> None:
        try:
            # Listings are not cached: other nodes write there too.
            self.fs, self.root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SpecError(f"ray.store = {url!r}: {error}") from None

    def names(self, folder: str) -> set[str]:
        """Of all files below `folder`, from the root of the store."""
        root = PurePosixPath(self._at(""))
        found = self.fs.find(self._at(folder)) if self.fs.exists(self._at(folder)) else []
        return {str(PurePosixPath(path).relative_to(root)) for path in found if not path.endswith(PARTIAL)}

    def holds(self, name: str) -> bool:
        """Whether a file is there; not, where the store is out of reach."""
        with suppress(Exception):  # every store has errors of its own
            return bool(self.fs.exists(self._at(name)))
        return False

    def put(self, file: Path, name: str) -> None:
        """Uploads under another name, then moves: a reader never sees half a file."""
        target = self._at(name)
        temporary = f"{target}.{uuid.uuid4().hex[:8]}{PARTIAL}"
        self.fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
        try:
            self.fs.put_file(str(file), temporary)
            self.fs.mv(temporary, target)
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is told
                self.fs.rm_file(temporary)
            raise

    def get(self, name: str, file: Path) -> None:
        """Downloads beside `file`, then moves."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        try:
            self.fs.get_file(self._at(name), str(temporary))
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """A file, or a folder with all that is in it; one that is gone already is no error."""
        with suppress(FileNotFoundError):
            self.fs.rm(self._at(name), recursive=True)

    def _at(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}" if name else self.root.rstrip("/")


def push_corpus(store: Store, corpora: Path, name: str) -> None:
    """Puts the corpus of a hash into the store, unless it is there."""
    folder, there = corpora / name, store.names(f"corpora/{name}")
    if f"corpora/{name}/{MANIFEST}" in there:
        return
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for file in [*(file for file in files if file != MANIFEST), MANIFEST]:
        store.put(folder / file, f"corpora/{name}/{file}")


def pull_corpus(store: Store, corpora: Path, name: str) -> None:
    """Brings the corpus of a hash under `corpora`, unless it is there; several workers of a node wait for one.

    Raises:
        CorpusError: the store does not hold it, or what it holds is damaged.
    """
    corpora.mkdir(parents=True, exist_ok=True)
    with FileLock(corpora / f".{name}.lock"):
        if (corpora / name / MANIFEST).is_file():
            return
        files = store.names(f"corpora/{name}")
        if f"corpora/{name}/{MANIFEST}" not in files:
            raise CorpusError(f"{store.root}/corpora/{name}: no corpus in the store")
        partial = corpora / f"{name}{PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        for file in sorted(files):
            store.get(file, partial / PurePosixPath(file).relative_to(f"corpora/{name}"))
        if damaged := list(damaged_files(read_corpus(partial))):
            raise CorpusError(f"{store.root}/corpora/{name}: damaged in the store: {', '.join(damaged)}")
        partial.replace(corpora / name)


class TrunkMirror:
    """The checkpoints of the trunk of a run, or of a stack of runs, here and in the store."""

    def __init__(self, store: Store, checkpoints: Path, spec: RunSpec | Stack) -> None:
        self.store, self.root, self.spec = store, checkpoints, spec
        self.in_store: set[str] = set()  # that we put there or have read: ours to remove once they are superfluous

    def pull(self) -> None:
        """Brings the newest sound checkpoint that the run can start from, unless it is here."""
        from ...train.checkpoint import CheckpointError, read_checkpoint, step_of

        trunk, own = f"checkpoints/{self.spec.trunk_key}", f"checkpoints/{self.spec.trunk_key}/{self.spec.key}"
        usable = [
            name
            for name in self.store.names(trunk)
            if name.startswith(f"{own}/") or (_parent(name) == trunk and step_of(Path(name)) <= self.spec.branch_step)
        ]
        for name in sorted(usable, key=lambda name: step_of(Path(name)), reverse=True):
            file = self._file(name)
            if not file.exists():
                self.store.get(name, file)
            try:
                read_checkpoint(file)
            except CheckpointError:
                file.unlink()
                continue
            self.in_store.add(name)
            return

    def push(self) -> None:
        """Puts what is new here into the store, and removes from it what was removed here since."""
        here = {
            f"checkpoints/{path.relative_to(self.root).as_posix()}"
            for path in (self.root / self.spec.trunk_key).glob("**/*.pt")
        }
        for name in sorted(here - self.in_store):
            with suppress(FileNotFoundError):  # superfluous since we looked
                self.store.put(self._file(name), name)
                self.in_store.add(name)
        for name in sorted(self.in_store - here):
            self.store.remove(name)
            self.in_store.discard(name)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Pushes beside the training within, which never waits for the store, and once more when the block ends.

        A store that is out of reach is tried again a second later; what it never got costs other nodes steps that are
        trained anew, and no run its result.
        """
        ended = threading.Event()

        def follow() -> None:
            last = False
            while not last:
                last = ended.wait(PUSH_EVERY_S)
                try:
                    self.push()
                except Exception as error:  # every store has errors of its own
                    print(f"{self.store.root}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()

    def _file(self, name: str) -> Path:
        return self.root / PurePosixPath(name).relative_to("checkpoints")


def _parent(name: str) -> str:
    return str(PurePosixPath(name).parent)
