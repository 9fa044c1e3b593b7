"""What all runs of a ledger share, and the first setting in which two sweeps differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Difference = tuple[str, Any, Any]


def flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """{"train": {"lr": 1}} as {"train.lr": 1}; a corpus' name is what people call it, and no setting."""
    found: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    found.pop("corpus.name", None)
    return found


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Difference | None:
    """(key, ours, theirs) of the first setting that is not equal, in order of its name."""
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            return key, ours.get(key), theirs.get(key)
    return None
