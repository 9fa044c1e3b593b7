from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """One thing that a careful reader of a fit should know: a stable `code` and a `message` in plain words."""

    code: str
    message: str
