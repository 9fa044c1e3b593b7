"""Writes the page of a ladder from its rule.json, in a process of its own: python -m sixnd.sweeps.tuning.page FOLDER NAME."""

from __future__ import annotations

import sys
from pathlib import Path

from ...analysis.report.tuning import write_tuning_page
from ...analysis.tuning.ladder import climb
from ...analysis.tuning.optima import LadderTable
from .rule_file import RULE, read_rule
from .run import PAGE, rule_lines


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    rule = read_rule(folder / RULE)
    write_tuning_page(folder / PAGE, f"Tuning of {name}", climb(LadderTable.of(rule.runs)), rule_lines(rule))


if __name__ == "__main__":
    main()
