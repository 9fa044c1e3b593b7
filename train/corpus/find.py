"""A built corpus by hash, name or folder."""

from __future__ import annotations

from pathlib import Path

from .build import corpora_root
from .manifest import MANIFEST
from .spec import CorpusError
from .store import Corpus, read_corpus


def find_corpus(name: str | None, root: Path | None = None) -> Corpus:
    """The corpus that `name` means: a folder, a hash, or the name of just one of those built; None: the only one there is.

    Raises:
        CorpusError: there is none, or more than one.
    """
    folder = corpora_root(root)
    for path in (Path(name), folder / name) if name is not None else ():
        if (path / MANIFEST).is_file():
            return read_corpus(path)
    built = [read_corpus(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}")) if _is_finished(path.parent)]
    chosen = [corpus for corpus in built if name is None or corpus.manifest.name == name]
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(f"{corpus.manifest.name} ({corpus.hash})" for corpus in built) or "none"
    wanted = "a corpus" if name is None else repr(name)
    problem = f"{len(chosen)} corpora fit {wanted}; name one by its hash" if chosen else f"no corpus {wanted} here"
    raise CorpusError(f"{folder}: {problem}; built: {known}; `sixnd corpus build` builds one")


def _is_finished(folder: Path) -> bool:
    return "." not in folder.name
