"""Fixtures that several rooms share: a small corpus of made-up text, built once a session."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sixnd.models.config import ModelConfig
from sixnd.train.corpus.build import build_from_sources
from sixnd.train.corpus.sources import Document, Source
from sixnd.train.corpus.spec import Cleaning, CorpusSpec, FilesSource
from sixnd.train.corpus.store import Corpus
from sixnd.train.schedule import Schedule
from sixnd.train.settings import OptimizerSettings
from sixnd.train.spec import RunSpec

VOCAB, CONTEXT, BATCH = 300, 16, 64
AS_IT_IS = Cleaning(unicode=False, quality=(), toxicity=False)


def make_documents(n: int, seed: int = 0, source: str = "made-up") -> list[Document]:
    """Documents of a small grammar: each word depends on the one before, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghij"), size=rng.integers(2, 7))) for _ in range(40)]
    follows = rng.integers(0, len(words), size=(len(words), 3))
    documents = []
    for number in range(n):
        word, text = int(rng.integers(len(words))), []
        for _ in range(int(rng.integers(60, 120))):
            text.append(words[word])
            word = int(follows[word, rng.integers(3)])
        documents.append(Document(source, f"doc-{number}", " ".join(text)))
    return documents


def make_source(documents: list[Document], name: str = "made-up") -> Source:
    digest = hashlib.sha256("\0".join(d.text for d in documents).encode()).hexdigest()
    return Source(name=name, version="1", licence="CC0-1.0", sha256=digest, documents=lambda: documents)


def tiny_spec(*names: str, **settings: object) -> CorpusSpec:
    """A corpus of made-up sources, which `build_from_sources` is given opened; nothing is cleaned unless asked for."""
    sources = [FilesSource(kind="files", name=name, paths=("*",)) for name in names or ("made-up",)]
    defaults = {"name": "tiny", "vocab_size": VOCAB, "test_fraction": 0.2, "clean": AS_IT_IS}
    return CorpusSpec.model_validate(defaults | {"sources": sources} | settings)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpora")


@pytest.fixture(scope="session")
def corpus(corpora: Path) -> Corpus:
    spec = tiny_spec(test_fraction=0.1)
    return build_from_sources(spec, [make_source(make_documents(120))], corpora, say=lambda _: None, processes=1)


@pytest.fixture(scope="session")
def run_spec(corpus: Corpus) -> RunSpec:
    """A run of 40 steps that takes well under a second eagerly."""
    return RunSpec(
        corpus=corpus.hash,
        model=ModelConfig.from_shape(1, 32, VOCAB, CONTEXT),
        tokens=40 * BATCH,
        seed=0,
        batch_tokens=BATCH,
        optimizer=OptimizerSettings(lr=0.01, beta2=0.99),
        schedule=Schedule(warmup_tokens=2 * BATCH),
        precision="bf16",
    )


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than these tiny runs; the tests of compilation undo this."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
