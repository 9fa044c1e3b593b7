"""Counts as people write them: 442k, 0.5M, 4e6."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_count(value: object) -> object:
    """'442k', '0.5M', 4e6 and 4_000_000 alike, as a whole number."""
    if isinstance(value, str):
        number, unit = (value[:-1], SUFFIXES[value[-1]]) if value[-1:] in SUFFIXES else (value, 1)
        try:
            value = float(number.replace("_", "")) * unit
        except ValueError:
            raise ValueError(f"{value!r} is not a count such as 500000, 5e5, '442k', '0.5M' or '1B'") from None
    if isinstance(value, float) and not (abs(value) < 1e18 and round(value) == value):
        raise ValueError(f"{value!r} is not a whole number")
    return round(value) if isinstance(value, float) else value


Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
