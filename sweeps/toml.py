"""TOML files with overrides, validated once: every error at once, one line each, with file, key and what is allowed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)


class SpecError(ValueError):
    """A spec that cannot be read; the message holds one line for each error."""

    exit_code = 2


def read_toml(source: str, presets: str) -> dict[str, Any]:
    """A TOML file, or the preset of that name in the package `presets`.

    Raises:
        SpecError: there is none, or it is not TOML.
    """
    path, folder = Path(source), Path(str(files(presets)))
    if not path.exists() and path.suffix != ".toml" and (folder / f"{source}.toml").is_file():
        path = folder / f"{source}.toml"
    if not path.is_file():
        known = ", ".join(sorted(preset.stem for preset in folder.glob("*.toml")))
        raise SpecError(f"{source}: no such file; give a TOML file or a preset ({known})")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{source}: not valid TOML: {error}") from None


def merge(document: dict[str, Any], override: str) -> None:
    """Puts `train.lr=3e-4` or `sources.0.weight=2` where it belongs; a value that is not TOML is taken as a string.

    Raises:
        SpecError: it is not key=value, or names a place that is no table.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"{override!r}: an override is key=value, such as train.lr=3e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    place: Any = document
    *tables, last = key.strip().split(".")
    for table in tables:
        if isinstance(place, list) and table.isdecimal() and int(table) < len(place):
            place = place[int(table)]
        elif isinstance(place, dict):
            place = place.setdefault(table, {})
        if not isinstance(place, dict | list):
            raise SpecError(f"{override!r}: {table} is not a table")
    if isinstance(place, list):
        raise SpecError(f"{override!r}: {tables[-1]} is a list; name one of its {len(place)} entries by number, from 0")
    place[last] = value


def validate(model: type[Model], document: dict[str, Any], source: str, tables: Mapping[str, type[BaseModel]]) -> Model:
    """The document as `model`; `tables` says which model stands under which key, for the list of allowed keys.

    Raises:
        SpecError: one line for each thing that is wrong.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        lines: dict[str, list[str]] = {}
        for problem in error.errors():
            # "false or a table" failed as a table: that it is not false either is no news.
            if problem["type"] == "literal_error" and isinstance(problem["input"], dict):
                continue
            # Nor that a list is too short without the entries that have an error of their own.
            if problem["type"] == "too_short" and len(problem["input"]) >= problem["ctx"]["min_length"]:
                continue
            start, message = _line(problem, document, model, tables)
            lines.setdefault(f"{source}: {start}", []).append(message)
        said = (f"{start}: {' or '.join(dict.fromkeys(messages))}" for start, messages in lines.items())
        raise SpecError("\n".join(said)) from None


def said(problem: ErrorDetails) -> str:
    """What is wrong, without pydantic's prefix."""
    return problem["msg"].removeprefix("Value error, ")


def _line(
    problem: ErrorDetails, document: dict[str, Any], model: type[BaseModel], tables: Mapping[str, type[BaseModel]]
) -> tuple[str, str]:
    """What is wrong with which key. A location also names the alternatives tried; only what the document holds is the key."""
    place: Any = document
    key: list[str] = []
    for part in problem["loc"]:
        inside = part in place if isinstance(place, dict) else isinstance(place, list) and isinstance(part, int)
        if inside and (isinstance(place, dict) or int(part) < len(place)):
            place = place[part]
            key.append(str(part))
    message = said(problem)
    if problem["type"] == "missing":
        return ".".join([*key, str(problem["loc"][-1])]), "required"
    if problem["type"] == "extra_forbidden":
        owner = next((tables[str(part)] for part in reversed(problem["loc"][:-1]) if part in tables), model)
        return ".".join(key), f"unknown key; allowed are {', '.join(owner.model_fields)}"
    if not key:
        return "the spec as a whole", message
    return (".".join(key) if isinstance(place, dict | list) else f"{'.'.join(key)} = {str(place)[:80]!r}"), message
