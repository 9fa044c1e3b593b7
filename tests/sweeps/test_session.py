"""From a spec to a session: the probe in its own process, speeds from the ledger, a budget's choice that stays."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from sixnd.models.config import ModelConfig
from sixnd.models.flops import training_flops
from sixnd.sweeps import precision as precisions
from sixnd.sweeps import session as sessions
from sixnd.sweeps.ledger.settings import flat
from sixnd.sweeps.ledger.store import FILE, Ledger
from sixnd.sweeps.planning.plan import planned_row
from sixnd.sweeps.session import Session, prepare
from sixnd.sweeps.show import unheard
from sixnd.sweeps.spec import SpecError
from sixnd.train import speed
from sixnd.train.settings import Precision
from sixnd.train.speed import Probed, ProbeError, ProbeRequest, device_facts, probed

from tests.conftest import make_documents

SWEEP = """
name = "own"
shapes = [[1, 32], [2, 32], [2, 48], [3, 48]]
tokens = ["2k", "4k", "8k", "12k"]
[corpus]
name = "own"
vocab_size = 300
test_fraction = 0.1
clean = { unicode = false, quality = [], toxicity = false }
[[corpus.sources]]
kind = "files"
name = "own"
paths = ["text/*.txt"]
licence = "CC0-1.0"
[train]
context = 16
batch_tokens = 16
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text").mkdir()
    for number, document in enumerate(make_documents(120)):
        (tmp_path / "text" / f"{number:03}.txt").write_text(document.text)
    (tmp_path / "own.toml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_probe(monkeypatch: pytest.MonkeyPatch, flops_per_s: float, memory_bytes: int = 10**12) -> None:
    def measured(
        models: set[ModelConfig], _: int, precision: Precision, slots: int | None, __: int, say: Callable[[str], None]
    ) -> Probed:
        say(f"{len(models)} models timed in {precision}")
        shapes = tuple(models)
        speeds = tuple(flops_per_s / training_flops(model).total for model in shapes)
        return Probed(
            device="a chip", kind="cpu", precision="fp32", memory_bytes=memory_bytes, slots=slots or 2, compiled=False, models=shapes, tokens_per_s=speeds
        )  # fmt: skip

    def facts(slots: int | None = None) -> Probed:
        return measured(set(), 1, "fp32", slots, 1, lambda _: None)

    monkeypatch.setattr(sessions, "probed", measured)
    monkeypatch.setattr(sessions, "device_facts", facts)
    monkeypatch.setattr(precisions, "device_facts", facts)


def keys(session: Session) -> set[str]:
    return {run.key for run in session.plan.runs}


def test_a_sweep_that_has_started_keeps_the_cells_it_chose(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_probe(monkeypatch, 1e8)
    whole = prepare("own.toml", (), None, None, unheard)
    budget = f"{0.7 * whole.costed.forecast.makespan_s / 3600}h"
    first = prepare("own.toml", (), None, None, unheard, budget=budget)
    assert keys(first) < keys(whole)
    a_probe(monkeypatch, 2e8)  # the machine is free now: a new sweep would take more
    assert keys(prepare("own.toml", (), None, None, unheard, budget=budget)) > keys(first)
    sessions._keep_choice(first)
    assert keys(prepare("own.toml", (), None, None, unheard, budget=budget)) == keys(first)
    assert keys(prepare("own.toml", (), None, None, unheard, budget="900h")) == keys(whole)


@pytest.mark.parametrize("device", ["another chip, eager fp32", "a chip, compiled fp32", "2 x a chip, eager fp32"])
def test_speeds_come_from_the_ledger_where_it_has_any_on_this_device(
    home: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    a_probe(monkeypatch, 1e8)
    before = prepare("own.toml", (), None, None, unheard)
    run = before.plan.runs[0]
    ledger = Ledger(home / "sweeps-out" / "own" / FILE)
    ledger.plan([planned_row(run)])
    with ledger.connection:
        ledger.connection.execute("UPDATE runs SET state = 'done', device = ?, tokens_per_s = 1.0", (device,))
    said: list[str] = []
    elsewhere = prepare("own.toml", (), None, None, said.append)
    assert elsewhere.costed.seconds.items() <= before.costed.seconds.items()
    assert said == ["4 models timed in fp32"]
    slow = 1e6 / training_flops(run.model).total  # a hundredth of the probed speed
    with ledger.connection:
        ledger.connection.execute("UPDATE runs SET device = 'a chip, eager fp32', tokens_per_s = ?", (slow,))
    ledger.close()
    said.clear()
    after = prepare("own.toml", (), None, None, said.append)
    assert said == []  # the device's name is all that was asked for
    assert run.key not in after.costed.seconds
    for key, seconds in after.costed.seconds.items():
        assert seconds == pytest.approx(100 * before.costed.seconds[key], rel=1e-6)


def test_other_settings_are_refused_before_anything_is_measured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_probe(monkeypatch, 1e8)
    first = prepare("own.toml", (), None, None, unheard, to_train=True)
    ledger = Ledger(home / "sweeps-out" / "own" / FILE)
    ledger.set_meta("settings", json.dumps(flat(first.sweep.settings())))
    ledger.close()
    prepare("own.toml", (), None, None, unheard, to_train=True)
    assert (
        prepare("own.toml", ("train.precision=bf16",), None, None, unheard).sweep.train.precision == "bf16"
    )  # what if
    monkeypatch.setattr(sessions, "probed", lambda *_: pytest.fail("probed"))
    with pytest.raises(SpecError, match=r"own: its runs were trained with train\.precision = 'fp32', not 'bf16'"):
        prepare("own.toml", ("train.precision=bf16",), None, None, unheard, to_train=True)


def test_what_does_not_fit_the_memory_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_probe(monkeypatch, 1e8, memory_bytes=10**8)
    with pytest.raises(SpecError) as error:
        prepare("own.toml", (), None, None, unheard)
    assert len(str(error.value).splitlines()) == 4 and "own: shapes or params: N = " in str(error.value)
    a_probe(monkeypatch, 1e8, memory_bytes=10**9)
    with pytest.raises(SpecError, match=r"own: workers = 4: .* give workers = 3"):
        prepare("own.toml", ("workers=4",), None, None, unheard)


def test_the_document_of_a_plan(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_probe(monkeypatch, 1e8)
    document = json.loads(json.dumps(prepare("own.toml", (), None, None, unheard).document()))
    runs = document["runs"]
    assert len(runs) == 16 and document["expected_errors"]["alpha"] > 0
    assert document["trained_flops"] == sum(6 * run["N"] * run["trained_tokens"] for run in runs)
    assert sum(run["D"] for run in runs) / sum(run["trained_tokens"] for run in runs) == document["trunk_saving"] > 1.3


def test_a_plan_says_what_its_ladder_takes_until_there_is_a_rule(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_probe(monkeypatch, 1e8)
    assert prepare("own.toml", (), None, None, unheard).document()["tuning"] is None
    tuned = prepare("own.toml", ("tuning={}", "corpus.validation_fraction=0.1"), None, None, unheard)
    ladder = tuned.document()["tuning"]
    assert (ladder["runs"], ladder["left"]) == (4 * 2 * 5, 40) and ladder["forecast"]["makespan_s"] > 0
    said = io.StringIO()
    tuned.show(Console(file=said, width=200))
    assert "ladder: 4 rungs" in said.getvalue()


def test_the_probe_answers_for_each_shape_and_is_kept_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "PROBE_S", 0.1)
    models = {ModelConfig.from_shape(1, width, 300, 16) for width in (32, 64)}
    said: list[str] = []
    first = probed(models, 64, "bf16", slots=1, say=said.append)
    assert len(said) == 1 and "15 seconds" in said[0]
    assert set(first.speeds) == models and min(first.tokens_per_s) > 0
    assert (first.slots, first.kind in ("cpu", "cuda"), first.compiled) == (1, True, False)
    facts = device_facts(slots=1)
    assert (facts.device, facts.memory_bytes, facts.tokens_per_s) == (first.device, first.memory_bytes, ())
    assert len(said) == 1
    monkeypatch.setattr(speed, "_measure", lambda _: pytest.fail("measured again"))
    assert probed(models, 64, "bf16", slots=1, say=said.append) == first and len(said) == 1


def test_a_probe_that_fails_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    request = ProbeRequest(models=(ModelConfig.from_shape(1, 32, 300, 16),), batch_tokens=8)  # below one context
    with pytest.raises(ProbeError, match=r"^the speed of this machine could not be measured: [^\n]+$"):
        speed._measure(request)


def held_by(module: str, *heavy: str) -> str:
    code = f"import sys, {module}; print(set({heavy!r}) & set(sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_driver_holds_neither_torch_nor_scipy() -> None:
    assert held_by("sixnd.sweeps.session", "torch", "scipy", "pandas", "plotly") == "set()"


def test_a_report_needs_neither_torch_nor_scipys_distributions() -> None:
    """Each takes a second or two to import, and a sweep writes its report again and again."""
    assert held_by("sixnd.sweeps.results", "torch", "scipy.stats") == "set()"
