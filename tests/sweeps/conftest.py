"""What several tests of sweeps use."""

from __future__ import annotations

import pytest
from sixnd.train.corpus.build import build_from_sources
from sixnd.train.corpus.store import Corpus

from tests.conftest import make_documents, make_source, tiny_spec


@pytest.fixture(scope="session")
def tunable(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus with a validation side."""
    spec = tiny_spec(test_fraction=0.1, validation_fraction=0.15)
    return build_from_sources(
        spec, [make_source(make_documents(1100))], tmp_path_factory.mktemp("c"), lambda _: None, 1
    )
