"""Sources of text: installed packages, local files, the Hugging Face hub, Python's own standard library."""

from __future__ import annotations

from pathlib import Path

from ..spec import FilesSource, HubSource, PackageSource, PythonSource, SourceSpec
from .document import Document, Source
from .files import read_files
from .hub import read_hub
from .packages import read_package
from .python import read_python

__all__ = ["Document", "Source", "read_source"]


def read_source(spec: SourceSpec, max_document_bytes: int, root: Path) -> Source:
    """Opens a source; `root` is the folder of built corpora, which remembers the commits of hub datasets.

    Raises:
        CorpusError: it is not there, or not what was asked for.
    """
    match spec:
        case PackageSource():
            return read_package(spec)
        case PythonSource():
            return read_python(spec)
        case FilesSource():
            return read_files(spec, max_document_bytes)
        case HubSource():
            return read_hub(spec, max_document_bytes, root)
