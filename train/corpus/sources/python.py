"""The standard library's own source code: text that is there wherever Python is."""

from __future__ import annotations

import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from ..spec import CorpusError, PythonSource
from .document import Document, Source, digest_of_files

# Installed packages, tests (some are broken on purpose), and files that are made for one machine.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "sitecustomize.py"}


def read_python(spec: PythonSource) -> Source:
    """The modules of this interpreter's standard library, one document each, in one fixed order.

    Raises:
        CorpusError: this Python keeps no source code on disk.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = dict(_modules(folder))
    if not files:
        raise CorpusError(f"source {spec.label}: no .py files under {folder}; this Python came without its source code")

    def documents() -> Iterator[Document]:
        for name, path in files.items():
            with tokenize.open(path) as module:  # decodes as the file itself declares
                yield Document(spec.label, name, module.read())

    return Source(
        name=spec.label,
        version=platform.python_version(),
        licence="PSF-2.0",
        sha256=digest_of_files(files.items()),
        documents=documents,
    )


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("config-"))
        for name in sorted(names):
            if name.endswith(".py") and name not in LEFT_OUT and not name.startswith("_sysconfigdata"):
                path = Path(parent, name)
                yield path.relative_to(folder).as_posix(), path
