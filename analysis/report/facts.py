"""Nested facts (a corpus' manifest, the versions of a machine) as label-value pairs and tables, whatever keys they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_SHORT_LIST = 8


@dataclass(frozen=True)
class Value:
    text: str
    exact: str = ""  # the whole of it where `text` is shorter
    numeric: bool = False


@dataclass(frozen=True)
class FactTable:
    name: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    folded: bool


@dataclass(frozen=True)
class Facts:
    pairs: tuple[tuple[str, Value], ...]
    tables: tuple[FactTable, ...]


def facts(mapping: Mapping[str, object]) -> Facts:
    """Scalars as pairs, nested mappings as pairs with both keys in the label, longer lists as tables; all but "sources" folded."""
    pairs, tables = [], []
    for label, value in _flat(mapping):
        if isinstance(value, list):
            tables.append(_table(label, value))
        else:
            pairs.append((label, _value(value)))
    return Facts(tuple(pairs), tuple(sorted(tables, key=lambda table: table.folded)))


def _flat(mapping: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in mapping.items():
        label = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label} ")
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            short = len(value) <= _SHORT_LIST and not any(isinstance(item, (Mapping, list, tuple)) for item in value)
            yield label, ", ".join(_value(item).text for item in value) if short else list(value)
        else:
            yield label, value


def _table(name: str, items: list[object]) -> FactTable:
    flat = [dict(_flat(item)) if isinstance(item, Mapping) else {name: item} for item in items]
    headings = tuple(dict.fromkeys(heading for row in flat for heading in row))
    rows = tuple(tuple(_value(row.get(heading, "")) for heading in headings) for row in flat)
    return FactTable(name, headings, rows, folded=name != "sources")


def _value(value: object) -> Value:
    if value is None:
        return Value("—")
    if isinstance(value, bool):
        return Value("yes" if value else "no")
    if isinstance(value, int):
        return Value(f"{value:,}", numeric=True)
    if isinstance(value, float):
        return Value(f"{value:,.4g}", repr(value), numeric=True)
    text = str(value)
    short = shortened(text)
    return Value(short, text if short != text else "")


def shortened(text: str) -> str:
    """The beginning of a digest; any other text as it is."""
    is_digest = len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
    return f"{text[:12]}…" if is_digest else text
