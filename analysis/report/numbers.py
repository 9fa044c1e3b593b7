"""Numbers as people read them: 442k parameters, 3.1e13 FLOPs, and estimates rounded to what their interval supports."""

from __future__ import annotations

import math
from collections.abc import Sequence

Interval = tuple[float, float]

_UNDEFINED = "—"  # what a law has no value for, as N* has none where an exponent is zero
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(value: float, digits: int = 2) -> str:
    """Parameters or tokens with a unit, to `digits` significant ones but never short of whole units: 25k, 442k, 4.0M, 1.3B."""
    if not math.isfinite(value):
        return _UNDEFINED
    for scale, unit in _UNITS:
        if value >= 0.9995 * scale:  # 999,600 is 1.0M, not 1000k
            decimals = digits - 1 - _exponent(value / scale, digits)
            return f"{value / scale:.{max(decimals, 0)}f}{unit}"
    return f"{value:.{max(digits, 3)}g}"


def counts(values: Sequence[float]) -> list[str]:
    """`count` of each, with as many digits as it takes to tell different values apart."""
    distinct = len(set(values))
    for digits in range(2, 9):
        labels = [count(value, digits) for value in values]
        if len(set(labels)) == distinct:
            return labels
    return [f"{value:.10g}" for value in values]


def flops(value: float) -> str:
    """3.1e13, and 1e18."""
    return _scientific(value, 1).replace(".0e", "e") if math.isfinite(value) else _UNDEFINED


def rounded(value: float, interval: Interval | None) -> str:
    """`value` with the digits that its 95 % interval supports: one digit of the standard error, two where it begins with 1.

    At least one significant digit is kept; without a proper interval, three are. Very large or small ones come as 3e7.
    """
    if not math.isfinite(value):
        return _UNDEFINED
    supported = _supported(interval)
    least = -_exponent(value, 1) if value else 0
    return _fixed(value, least + 2 if supported is None else max(supported, least))


def rounded_interval(interval: Interval) -> str:
    """Both ends, rounded like the estimate between them, the one close to zero to a digit more: "0.06 to 0.9"."""
    supported = _supported(interval)
    if supported is None:
        return " to ".join(rounded(end, None) for end in interval)
    places = [max(supported, min(-_exponent(end, 1) if end else 0, max(supported, 0) + 1)) for end in interval]
    return " to ".join(_fixed(end, place) for end, place in zip(interval, places, strict=True))


def _supported(interval: Interval | None) -> int | None:
    """How many decimals an interval supports (negative: tens, hundreds...); None for one without a width."""
    if interval is None or not all(map(math.isfinite, interval)) or interval[1] <= interval[0]:
        return None
    error = (interval[1] - interval[0]) / (2 * 1.96)
    return -_exponent(error, 1) + (1 if f"{error:.0e}"[0] == "1" else 0)


def _fixed(value: float, decimals: int) -> str:
    if value != 0 and not 1e-4 <= abs(value) < 1e6 and round(value, decimals) != 0:
        return _scientific(value, max(_exponent(value, 1) + decimals, 0))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def _scientific(value: float, decimals: int) -> str:
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _exponent(value: float, digits: int) -> int:
    """The power of ten of `value` once it is rounded to so many significant digits."""
    return int(f"{value:.{digits - 1}e}".split("e")[1])
