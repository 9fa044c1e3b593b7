"""Row filters such as "mode == 'train' and N < 1e9": parsed into a tree, checked against a whitelist, and never evaluated as Python."""

from __future__ import annotations

import ast
import io
import operator
import tokenize
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

Mask = npt.NDArray[np.bool_]
ALLOWED = "allowed are comparisons COLUMN < <= > >= == != CONSTANT (a number or a quoted string), joined by and, or, not and parentheses"
LONGEST = 2000

_COMPARE: dict[type[ast.cmpop], Callable[[pd.Series, float | str], pd.Series]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_MIRROR: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


class WhereError(ValueError):
    """The expression is not a row filter, or does not fit the table's columns; the message is one line."""


def select_rows(frame: pd.DataFrame, expression: str) -> Mask:
    """Which rows of `frame` (n,) satisfy `expression`; a missing value satisfies only !=.

    A constant may stand on either side, `=` is read as `==`, and `1e6 < N < 1e9` works. Raises WhereError.
    """
    return _evaluate(_parse(expression), frame)


def _parse(expression: str) -> ast.expr:
    if len(expression) > LONGEST:
        raise WhereError(f"the expression has {len(expression)} characters, more than {LONGEST}")
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(expression.strip()).readline))
        doubled = [(t.type, "==" if t.type == tokenize.OP and t.string == "=" else t.string) for t in tokens]
        return ast.parse(tokenize.untokenize(doubled).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise WhereError(f"cannot read {_short(expression)}: {ALLOWED}") from error


def _evaluate(node: ast.expr, frame: pd.DataFrame) -> Mask:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return _all([_evaluate(value, frame) for value in values])
        case ast.BoolOp(op=ast.Or(), values=values):
            return ~_all([~_evaluate(value, frame) for value in values])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_evaluate(operand, frame)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            pairs = [_compare(sides[i], op, sides[i + 1], frame) for i, op in enumerate(ops)]
            return _all(pairs)
    raise WhereError(f"{_short(ast.unparse(node))} is not a comparison: {ALLOWED}")


def _compare(left: ast.expr, op: ast.cmpop, right: ast.expr, frame: pd.DataFrame) -> Mask:
    kind = type(op)
    if isinstance(right, ast.Name) and not isinstance(left, ast.Name):
        left, right, kind = right, left, _MIRROR.get(kind, kind)
    if not isinstance(left, ast.Name) or kind not in _COMPARE:
        raise WhereError(f"{_short(ast.unparse(ast.Compare(left, [op], [right])))} is not a comparison: {ALLOWED}")
    if left.id not in frame.columns:
        raise WhereError(f"there is no column {left.id}; the table has {', '.join(map(str, frame.columns))}")
    column, constant = frame[left.id], _constant(right)
    if isinstance(constant, str):
        if pd.api.types.is_numeric_dtype(column):
            raise WhereError(f"column {left.id} holds numbers: compare it with a number, not with {_short(constant)}")
        chosen = _COMPARE[kind](column.astype("string"), constant)
    else:
        numbers = pd.to_numeric(column, errors="coerce").astype("float64")
        if numbers.isna().all() and not column.isna().all():
            raise WhereError(f"column {left.id} holds text: compare it with a quoted string")
        chosen = _COMPARE[kind](numbers, constant)
    return chosen.fillna(kind is ast.NotEq).to_numpy(dtype=np.bool_)


def _constant(node: ast.expr) -> float | str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.Constant(value=int() | float() as number):
            return _float(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -_float(number)
    raise WhereError(f"{_short(ast.unparse(node))} is not a constant: {ALLOWED}")


def _float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf")


def _all(masks: list[Mask]) -> Mask:
    return np.asarray(np.stack(masks).all(axis=0), dtype=np.bool_)


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."
