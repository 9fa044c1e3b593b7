"""One thread for every test that trains, as every worker has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take longer than these tiny runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def curve_of_tiny_runs() -> Iterator[None]:
    """The first point of a curve early enough for runs of a few thousand tokens to have some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sixnd.train.curve.CURVE_FIRST_TOKENS", 256)
        yield
