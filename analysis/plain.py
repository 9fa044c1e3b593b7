"""Results as JSON holds them: dictionaries, lists, text and finite numbers."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np


def plain(value: object) -> object:
    """Dataclasses and arrays as dictionaries and lists; NaN and the infinities, which JSON lacks, as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain_fields(value)
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case float():
            return value if np.isfinite(value) else None
    return value


def plain_fields(result: object) -> dict[str, object]:
    """The fields of a dataclass by name."""
    assert is_dataclass(result)
    return {field.name: plain(getattr(result, field.name)) for field in fields(result)}
