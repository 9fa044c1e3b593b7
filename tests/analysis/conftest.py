from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sixnd.analysis.report.content import Content, content_of
from sixnd.analysis.study import Study
from sixnd.analysis.tables.table import RunTable

from tests.simulated import simulated_study

Array = npt.NDArray[np.float64]
TRUE = {"A": 400.0, "B": 1500.0, "E": 1.8, "alpha": 0.34, "beta": 0.37}


def _table(N: Array, D: Array, loss: Array) -> RunTable:
    frame = pd.DataFrame({"N": N, "D": D, "loss": loss})
    return RunTable(N, D, loss, frame, "simulated", "N", "D", "loss")


def _simulated(noise: float, sizes: int = 6, lengths: int = 5, seed: int = 0) -> RunTable:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e10, sizes), np.geomspace(1e9, 3e11, lengths)))
    loss = TRUE["A"] / N ** TRUE["alpha"] + TRUE["B"] / D ** TRUE["beta"] + TRUE["E"]
    return _table(N, D, loss * np.exp(noise * np.random.default_rng(seed).standard_normal(N.size)))


@pytest.fixture
def table_of() -> Callable[[Array, Array, Array], RunTable]:
    return _table


@pytest.fixture
def simulated() -> Callable[..., RunTable]:
    """A full grid of runs under the law `true` with normal noise in log L: simulated(noise, sizes=6, lengths=5, seed=0)."""
    return _simulated


@pytest.fixture
def true() -> dict[str, float]:
    return dict(TRUE)


@pytest.fixture
def reference() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("shared/reference is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def study() -> Study:
    """A simulated ledger's, with every analysis in it."""
    return simulated_study()


@pytest.fixture(scope="session")
def content(study: Study) -> Content:
    """What the report says of it."""
    return content_of(study.table, study.fit, study)
