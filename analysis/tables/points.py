"""The points N, D of a table that says nothing else: where losses are to be predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..laws import Array
from .columns import find_column, missing
from .read import TableError, checked, read_frame, shown
from .units import numbers


def read_points(path: str | Path, n_col: str = "N", d_col: str = "D") -> tuple[Array, Array]:
    """N parameters and D tokens (k,) of a table in any format that `read_table` reads; common names of columns are recognised.

    Raises TableError for another table, a missing column, and a cell that is not a positive number.
    """
    frame, source = checked(read_frame(Path(path))[0], str(path)), str(path)
    values = []
    for role, asked in (("N", n_col), ("D", d_col)):
        column = find_column(frame, role, asked, source)
        if column is None:
            raise missing(frame, role, source)
        read = numbers(
            frame[column.name], counts=True, factor=column.factor, what=f"{source}: column {shown(column.name)}"
        )
        wrong = np.flatnonzero(read.wrong | np.isnan(read.values))
        if len(wrong):
            cell = repr(frame[column.name].iloc[wrong[0]])[:60]
            raise TableError(
                f"{source}: row {wrong[0] + 1}, column {shown(column.name)}: {cell} is not a positive number"
            )
        values.append(read.values)
    return values[0], values[1]
