"""What `train.precision = "auto"` stands for, settled once for a sweep: its runs and its learning rates keep to one precision."""

from __future__ import annotations

import json
from pathlib import Path

from ..train.settings import Precision
from ..train.speed import device_facts
from .ledger.store import FILE, open_ledger
from .spec import SweepSpec
from .tuning.rule_file import FOLDER, read_rule


def in_precision(sweep: SweepSpec, precision: Precision) -> SweepSpec:
    """The sweep with `precision` where it says auto."""
    if sweep.train.precision != "auto":
        return sweep
    return sweep.model_copy(update={"train": sweep.train.model_copy(update={"precision": precision})})


def with_precision(sweep: SweepSpec, folder: Path) -> SweepSpec:
    """The sweep in the precision that `folder`, its ladder or its rule began with, else in that of this machine's device.

    So a sweep that moves to another machine goes on as it began.

    Raises:
        LedgerError, SpecError: a ledger or the rule cannot be read.
        ProbeError: the process that asks for the device failed.
    """
    if sweep.train.precision != "auto":
        return sweep
    began = _of_ledger(folder) or _of_ledger(folder / FOLDER) or _of_rule(sweep)
    return in_precision(sweep, began or device_facts(sweep.workers).precision)


def emulated(asked: Precision, native: Precision, device: str) -> str | None:
    """What to say of products that the device has no instructions for."""
    if asked == native or asked == "fp32":
        return None
    return f"train.precision = bf16 is emulated on {device}: fp32 is many times faster there"


def _of_ledger(folder: Path) -> Precision | None:
    if not (folder / FILE).is_file():
        return None
    ledger = open_ledger(folder)
    try:
        settings: dict[str, Precision] = json.loads(ledger.meta("settings") or "{}")
        return settings.get("train.precision")
    finally:
        ledger.close()


def _of_rule(sweep: SweepSpec) -> Precision | None:
    if sweep.tuning is None or sweep.tuning.rule is None:
        return None
    precision: Precision | None = read_rule(Path(sweep.tuning.rule)).settings.get("precision")
    return precision
