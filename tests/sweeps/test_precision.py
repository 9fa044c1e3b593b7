"""What precision a sweep trains in where it says auto: its device's, and then always the one that it began with."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from sixnd.sweeps import precision as precisions
from sixnd.sweeps.ledger.store import FILE, Ledger
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.precision import emulated, in_precision, with_precision
from sixnd.sweeps.spec import SpecError, SweepSpec, load_sweep
from sixnd.sweeps.tuning.rule_file import FOLDER
from sixnd.sweeps.tuning.spec import TuningSettings
from sixnd.train.corpus.store import Corpus

from tests.sweeps.sweep_child import small_sweep


def on_a_device_of(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "device_facts", lambda _: SimpleNamespace(precision=precision))


def auto(**changes: object) -> SweepSpec:
    sweep = small_sweep()
    return sweep.model_copy(update={"train": sweep.train.model_copy(update={"precision": "auto"}), **changes})


def begin(folder: Path, precision: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / FILE)
    ledger.set_meta("settings", json.dumps({"train.precision": precision}))
    ledger.close()


@pytest.mark.parametrize("native", ["bf16", "fp32"])
def test_auto_is_what_the_device_multiplies_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: str) -> None:
    on_a_device_of(native, monkeypatch)
    assert with_precision(auto(), tmp_path).train.precision == native


def test_what_is_asked_for_is_taken_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "device_facts", lambda _: pytest.fail("asked"))
    begin(tmp_path, "bf16")
    assert with_precision(small_sweep(), tmp_path) == small_sweep()  # fp32: the driver refuses it, naming the key
    assert in_precision(small_sweep(), "bf16") == small_sweep()


@pytest.mark.parametrize("folder", [".", FOLDER])
def test_a_sweep_goes_on_as_it_or_its_ladder_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    on_a_device_of("bf16", monkeypatch)
    begin(tmp_path / folder, "fp32")
    assert with_precision(auto(), tmp_path).train.precision == "fp32"


def test_a_ledger_without_settings_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_device_of("fp32", monkeypatch)
    Ledger(tmp_path / FILE).close()
    assert with_precision(auto(), tmp_path).train.precision == "fp32"


def test_a_rule_from_elsewhere_brings_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_device_of("bf16", monkeypatch)
    monkeypatch.setattr(precisions, "read_rule", lambda _: SimpleNamespace(settings={"precision": "fp32"}))
    tuned = auto(tuning=TuningSettings(rule="rule.json"))
    assert with_precision(tuned, tmp_path).train.precision == "fp32"
    begin(tmp_path, "bf16")  # and is refused by name where the sweep began otherwise
    assert with_precision(tuned, tmp_path).train.precision == "bf16"


def test_the_runs_of_a_plan_have_one(corpus: Corpus) -> None:
    plan = make_plan(in_precision(auto(), "fp32"), corpus)
    assert plan.precision == "fp32" and {run.precision for run in plan.runs} == {"fp32"}
    with pytest.raises(ValueError, match="still auto"):
        make_plan(auto(), corpus)


def test_only_emulated_products_are_worth_a_line() -> None:
    said = emulated("bf16", "fp32", "a chip")
    assert said is not None and said.startswith("train.precision = bf16 is emulated on a chip")
    assert [emulated(*both, "a chip") for both in (("bf16", "bf16"), ("fp32", "fp32"), ("fp32", "bf16"))] == [None] * 3


def test_presets_for_one_kind_of_gpu_say_theirs_and_the_rest_leave_it_open() -> None:
    said = {name: load_sweep(name).train.precision for name in ("demo", "laptop-hour", "h100-hour", "h100-day")}
    assert said == {"demo": "auto", "laptop-hour": "auto", "h100-hour": "bf16", "h100-day": "bf16"}
    with pytest.raises(SpecError, match=r"train\.precision = 'fp16': .*'auto', 'bf16' or 'fp32'"):
        load_sweep("demo", ("train.precision=fp16",))
