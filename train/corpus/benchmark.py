"""Items of a benchmark, to be looked for in a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .spec import CorpusError


def read_items(path: Path, columns: tuple[str, ...]) -> list[str]:
    """The text of each line's object: the named columns, or every string in it, a line each.

    Raises:
        CorpusError: the file is missing, not JSON lines, without such a column, or without any text.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    items = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    items.append(_text(f"{path}: line {number}", json.loads(line), columns))
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path}: line {number}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start} of a block; convert it first") from None
    if not any(item.strip() for item in items):
        raise CorpusError(f"{path}: no text in it")
    return items


def _text(where: str, item: object, columns: tuple[str, ...]) -> str:
    if not columns:
        return "\n".join(_strings(item))
    if not isinstance(item, dict) or (missing := [column for column in columns if column not in item]):
        there = ", ".join(item) if isinstance(item, dict) else f"a {type(item).__name__}"
        raise CorpusError(
            f"{where}: no {', '.join(missing) if isinstance(item, dict) else columns[0]}; there is {there}"
        )
    return "\n".join(string for column in columns for string in _strings(item[column]))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _strings(member)
