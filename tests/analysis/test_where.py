import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.tables.where import WhereError, select_rows

FRAME = pd.DataFrame(
    {
        "N": [1e6, 1e8, 1e10, 1e12],
        "mode": ["train", "eval", "train", None],
        "flag": [1, 0, 1, 1],
        "loss": [4.0, 3.0, np.nan, 2.0],
    }
)


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("flag == 1", [0, 2, 3]),
        ("flag = 1", [0, 2, 3]),
        ("N<1e9", [0, 1]),
        ("1e7 < N <= 1e10", [1, 2]),
        ("1e9 > N", [0, 1]),
        ("N > -1", [0, 1, 2, 3]),
        ("mode == 'train' and N < 1e9", [0]),
        ('mode = "eval" or (flag == 1 and not N < 1e11)', [1, 3]),
        ("mode != 'train'", [1, 3]),
        ("mode == 'a=b'", []),
        ("loss < 10", [0, 1, 3]),
        ("loss != 3", [0, 2, 3]),
        ("N < 1" + "0" * 400, [0, 1, 2, 3]),
    ],
)
def test_selects(expression: str, kept: list[int]) -> None:
    assert np.flatnonzero(select_rows(FRAME, expression)).tolist() == kept


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "N.__class__ == 1",
        "N == __import__('os')",
        "(lambda: 1)() == N",
        "[N for N in (1,)]",
        "N + 1 > 2",
        "N > 1 + 1",
        "N",
        "'x'",
        "1 == 1",
        "N == flag",
        "mode in ('train', 'eval')",
        "N is 1",
        "N == None",
        "N == f'{1}'",
        "N > 1; N < 2",
        "N > 1 if flag == 1 else N < 2",
        "(N := 3) > 1",
        "N == 1j",
        "mode == b'train'",
        "not",
        "",
        "N > ",
        "N > 1 and",
        "(" * 900 + "N > 1" + ")" * 900,
        "N > 1 and " * 400 + "N > 1",
        "N > 1 \x00",
        "'unclosed",
    ],
)
def test_refuses_in_one_line(expression: str) -> None:
    with pytest.raises(WhereError) as error:
        select_rows(FRAME, expression)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_names_the_columns_and_the_kind() -> None:
    with pytest.raises(WhereError, match="no column size; the table has N, mode, flag, loss"):
        select_rows(FRAME, "size > 1")
    with pytest.raises(WhereError, match="mode holds text"):
        select_rows(FRAME, "mode > 1")
    with pytest.raises(WhereError, match="N holds numbers"):
        select_rows(FRAME, "N == 'train'")
