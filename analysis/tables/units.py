"""Numbers as people write them in tables of runs ("400M", "params (B)"), and what looks as if it were in another unit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import numpy.typing as npt
import pandas as pd

from .read import TableError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_WORDS = {
    1.0: ("1",),
    1e3: ("k", "thousand", "thousands", "1e3"),
    1e6: ("m", "mn", "million", "millions", "1e6"),
    1e9: ("b", "bn", "g", "billion", "billions", "1e9"),
    1e12: ("t", "tn", "trillion", "trillions", "1e12"),
}
FACTORS = {word: factor for factor, words in _WORDS.items() for word in words}
FLOPS = {"pflops": 1e15, "eflops": 1e18, "zflops": 1e21, "yflops": 1e24, "pf-days": 8.64e19, "pflop/s-days": 8.64e19}
UNITS = "k, M, B, T (thousands, millions, billions, trillions) or 1"
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]*)", re.ASCII | re.IGNORECASE)
_GROUPED = re.compile(r"\d{1,3}(?:[,_]\d{3})+(?![,_\d])", re.ASCII)

MODEL_SCALE, TOKEN_SCALE = 1e15, 1e18  # nobody has trained beyond these
SMALL = 1e3  # no model has so few parameters and no run so few tokens
SPAN = 7.0  # decades
LARGEST_LOSS = 15.0  # nats per token: above the log of any vocabulary, ln(3e6)


@dataclass(frozen=True)
class Numbers:
    """A column as floats (n,): NaN where nothing is given. `wrong` (n,) marks what is not a positive finite number."""

    values: Array
    wrong: Mask
    scaled: bool  # some cells brought their own unit, as in 400M


def unit_factor(unit: str, option: str) -> float:
    """1e6 for "M" or "millions". Raises TableError naming the option for an unknown unit."""
    factor = FACTORS.get(unit.strip().lower(), FLOPS.get(unit.strip().lower()))
    if factor is None:
        raise TableError(f"{option}: {unit!r} is not a unit; allowed are {UNITS}")
    return factor


def numbers(column: pd.Series, *, counts: bool, factor: float | None, what: str) -> Numbers:
    """Reads a column; `counts` (parameters, tokens, FLOPs) may be written 400M, 1.5B or 1,000,000, and bare ones are times `factor`.

    Booleans, dates and other things that pandas would turn into numbers are wrong here. `what` opens the message of TableError, raised
    where "400M" and a bare number below a thousand stand in one column.
    """
    kinds = pd.api.types
    if kinds.is_numeric_dtype(column) and not (kinds.is_bool_dtype(column) or kinds.is_complex_dtype(column)):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        given, own = ~np.isnan(values), np.zeros(len(values), dtype=np.bool_)
    else:
        cells = column.tolist()
        known = {cell: _text(cell, counts) for cell in set(filter(lambda cell: isinstance(cell, str), cells))}
        read = [known[cell] if isinstance(cell, str) else _plain(cell) for cell in cells]
        values = np.array([value for value, _, _ in read], dtype=np.float64)
        given = np.array([there for _, there, _ in read], dtype=np.bool_)
        own = np.array([unit for _, _, unit in read], dtype=np.bool_)
    bare = given & ~own
    if factor is not None:
        values = np.where(bare, values * factor, values)
    elif own.any() and (mixed := bare & (values < SMALL)).any():
        first = int(np.flatnonzero(mixed)[0])
        raise TableError(
            f"{what}: {column.iloc[first]!r} in row {int(column.index[first]) + 1} has no unit, and other rows have one"
        )
    return Numbers(values, given & ~(np.isfinite(values) & (values > 0)), bool(own.any()))


def _text(cell: str, counts: bool) -> tuple[float, bool, bool]:
    """Value, whether something is there at all, and whether it brought its own unit."""
    text = cell.strip()
    if text.lower() in MISSING:
        return np.nan, False, False
    if counts and (grouped := _GROUPED.match(text)):
        text = re.sub("[,_]", "", grouped.group()) + text[grouped.end() :]
    match = _NUMBER.fullmatch(text)
    if match is None:
        return (np.inf if text.lower() in ("inf", "+inf", "infinity") else np.nan), True, False
    number, unit = match.groups()
    if not unit:
        return float(number), True, False
    if not counts or unit.lower() not in FACTORS:
        return np.nan, True, False
    return float(number) * FACTORS[unit.lower()], True, True


def _plain(cell: object) -> tuple[float, bool, bool]:
    if cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell)):
        return np.nan, False, False
    if isinstance(cell, (bool, np.bool_)):
        return np.nan, True, False
    try:
        return (float(cell) if isinstance(cell, Real) or type(cell).__name__ == "Decimal" else np.nan), True, False  # type: ignore[arg-type]
    except OverflowError:
        return np.inf, True, False


def doubts(N: Array, D: Array, loss: Array, C: Array | None, names: Sequence[str]) -> tuple[str, ...]:
    """What looks as if it were in another unit, a plain line each; nothing is rescaled on a guess.

    All arrays (n,), `C` in FLOPs where the table has it beside N and D; `names` are the columns of N, D and loss.
    """
    say = "say so with --n-unit, --d-unit (n_unit, d_unit in Python): M, B, or 1 to keep them as they are"
    found = []
    log_ratio = float(np.median(np.log10(D) - np.log10(N)))
    spans = {names[0]: float(np.ptp(np.log10(N))), names[1]: float(np.ptp(np.log10(D)))}
    few = {
        names[0]: N.max() < SMALL or (N.max() < 1e5 and log_ratio > 5),
        names[1]: D.max() < SMALL or (D.max() < 1e6 and log_ratio < -2),
    }
    units = {names[0]: "parameters", names[1]: "training tokens"}
    for (name, suspicious), values in zip(few.items(), (N, D), strict=True):
        if suspicious:
            ends = f"{values.min():.3g} to {values.max():.3g}"
            found.append(f"{name} from {ends} can hardly be {units[name]}: in millions or billions? {say}")
    if C is not None and (C > 0).any() and not any(few.values()):
        fine = np.isfinite(C) & (C > 0)
        off = np.log10(C[fine] / 6.0) - np.log10(N[fine]) - np.log10(D[fine])
        steady, centre = float(np.ptp(np.percentile(off, [25, 75]))) < 0.3, float(np.median(off))
        if steady and abs(centre) > 2.5 and abs(centre - 3 * round(centre / 3)) < 0.5:
            found.append(f"C is 10^{3 * round(centre / 3)} times 6ND: N, D and C are not all in single units; {say}")
    for name, values, most in ((names[0], N, MODEL_SCALE), (names[1], D, TOKEN_SCALE)):
        if values.max() > most:
            found.append(f"{name} goes up to {values.max():.3g}, beyond anything that was ever trained")
        if spans[name] > SPAN:
            found.append(f"{name} spans {spans[name]:.1f} decades: are all rows in one unit?")
    if np.median(loss) > LARGEST_LOSS:
        found.append(f"{names[2]} is {np.median(loss):.3g} at the median, too much for nats per token: a perplexity?")
    return tuple(found)
