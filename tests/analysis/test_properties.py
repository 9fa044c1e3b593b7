"""What must not change an exponent: the order of rows, the unit of a column, and copies of all rows, from the table to the fit."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sixnd.analysis.fit import fit
from sixnd.analysis.tables.table import RunTable, table_of
from sixnd.analysis.tables.units import FACTORS

Simulated = Callable[..., RunTable]
FEW = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
UNITS = st.sampled_from(["1", "k", "M", "B", "T", "millions"])


def exponents(table: RunTable) -> list[float]:
    params = fit(table, bootstrap=0).params
    return [params[name] for name in ("alpha", "beta", "E")]


@FEW
@given(seed=st.integers(0, 10**6))
def test_order_of_rows(simulated: Simulated, seed: int) -> None:
    frame = simulated(0.005, seed=seed % 20).frame
    shuffled = frame.sample(frac=1, random_state=seed)
    assert exponents(table_of(shuffled)) == pytest.approx(exponents(table_of(frame)), rel=1e-4)


@FEW
@given(n_unit=UNITS, d_unit=UNITS, seed=st.integers(0, 20))
def test_units(simulated: Simulated, n_unit: str, d_unit: str, seed: int) -> None:
    frame = simulated(0.005, seed=seed).frame
    scaled = frame.assign(N=frame.N / FACTORS[n_unit.lower()], D=frame.D / FACTORS[d_unit.lower()])
    whole = fit(table_of(frame), bootstrap=0).params
    # Said as an argument or in the header the unit is undone, A and B included; left unsaid, the exponents stay all the same.
    for table in (
        table_of(scaled, n_unit=n_unit, d_unit=d_unit),
        table_of(scaled.set_axis([f"params ({n_unit})", f"tokens ({d_unit})", "loss"], axis=1)),
    ):
        assert fit(table, bootstrap=0).params == pytest.approx(whole, rel=1e-3) and not table.unit_doubts
    assert exponents(table_of(scaled)) == pytest.approx(exponents(table_of(frame)), rel=1e-4)


@FEW
@given(copies=st.integers(2, 4), seed=st.integers(0, 20))
def test_copies_of_all_rows(simulated: Simulated, copies: int, seed: int) -> None:
    frame = simulated(0.005, seed=seed).frame
    table = table_of(pd.concat([frame] * copies))
    assert exponents(table) == pytest.approx(exponents(table_of(frame)), rel=1e-4)
    assert table.cluster is not None and np.bincount(table.cluster).tolist() == [copies] * len(frame)


@FEW
@given(seed=st.integers(0, 20))
def test_compute_instead_of_tokens(simulated: Simulated, seed: int) -> None:
    frame = simulated(0.005, seed=seed).frame
    table = table_of(frame.assign(C=6 * frame.N * frame.D).drop(columns="D"))
    assert exponents(table) == pytest.approx(exponents(table_of(frame)), rel=1e-4)


@settings(max_examples=200, deadline=None)
@given(value=st.floats(1e-3, 1e6), unit=st.sampled_from(sorted(FACTORS)))
def test_a_count_written_with_a_unit_is_that_count(value: float, unit: str) -> None:
    if unit[0].isdigit():
        return
    table = table_of(pd.DataFrame({"N": [f"{value!r}{unit}"] * 2, "D": [1e9] * 2, "loss": [3.0, 2.0]}))
    assert table.N[0] == pytest.approx(value * FACTORS[unit], rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    cell=st.one_of(st.text(max_size=12), st.binary(max_size=4), st.integers(), st.floats(), st.booleans(), st.none())
)
def test_any_cell_is_read_refused_or_set_aside(cell: object) -> None:
    frame = pd.DataFrame({"N": pd.Series([1e6, cell], dtype=object), "D": [1e9] * 2, "loss": [3.0, 2.0]})
    try:
        table = table_of(frame)
    except ValueError as error:
        assert error.exit_code == 2 and "\n" not in str(error)  # type: ignore[attr-defined]
        return
    assert len(table.N) + len(table.set_aside) == 2 and np.isfinite(table.N).all() and (table.N > 0).all()
