"""The learning rate: warm-up, power law, cooldown, cosine; the trunk never looks at D."""

from __future__ import annotations

import json
import math

import pytest
from sixnd.train.schedule import Cosine, Schedule
from sixnd.train.spec import RunSpec

BATCH = 100


def curve(schedule: Schedule | Cosine, tokens: int) -> list[float]:
    branch = schedule.cooldown_start(tokens) // BATCH * BATCH
    return [schedule.multiplier(seen, BATCH, tokens, branch) for seen in range(0, tokens, BATCH)]


def test_constant_with_warmup_and_cooldown() -> None:
    lrs = curve(Schedule(warmup_tokens=1000), 10_000)
    assert lrs[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert set(lrs[10:81]) == {1.0}
    assert lrs[80 + 5] == pytest.approx(1 - math.sqrt(0.25))
    assert 0 < lrs[-1] < 0.03


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
def test_power_law_is_a_straight_line_on_log_log_axes(p: float) -> None:
    lrs = curve(Schedule(p=p, warmup_tokens=1000, cooldown=0.0), 100_000)
    assert lrs[10] == pytest.approx(1.0)
    for k in (20, 50, 500, 999):
        assert lrs[k] == pytest.approx((k / 10) ** -p)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_runs_of_any_length_share_their_trunk(p: float) -> None:
    schedule = Schedule(p=p, warmup_tokens=700)
    short, long = curve(schedule, 10_000), curve(schedule, 40_000)
    assert short[:80] == long[:80]
    assert short[85] < long[85]


def test_no_warmup_starts_at_the_peak() -> None:
    assert curve(Schedule(p=0.5, warmup_tokens=0), 1000)[0] == 1.0


def test_a_linear_cooldown_is_a_straight_line_to_zero() -> None:
    lrs = curve(Schedule(warmup_tokens=1000, cooldown_shape="linear"), 10_000)
    assert lrs[80:] == pytest.approx([1 - k / 20 for k in range(20)])
    assert lrs[:80] == curve(Schedule(warmup_tokens=1000), 10_000)[:80]


def test_a_cosine_falls_from_the_peak_to_a_tenth_at_d() -> None:
    lrs = curve(Cosine(warmup_tokens=1000), 101_000)
    assert lrs[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert lrs[10] == max(lrs) == 1.0
    assert lrs[10 + 500] == pytest.approx(0.55)
    assert lrs[10 + 250] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert 0.1 < lrs[-1] < 0.1001
    assert lrs[10:] == sorted(lrs[10:], reverse=True)


def test_a_cosine_survives_a_warmup_as_long_as_the_run() -> None:
    assert curve(Cosine(warmup_tokens=1000), 1000) == pytest.approx([0.1 * k for k in range(1, 11)])
    assert curve(Cosine(warmup_tokens=0), 1000)[0] == 1.0


def test_runs_under_a_cosine_share_no_trunk(run_spec: RunSpec) -> None:
    cosine = run_spec.model_copy(update={"schedule": Cosine(warmup_tokens=128)})
    longer = cosine.model_copy(update={"tokens": 2 * cosine.tokens})
    assert cosine.branch_step == longer.branch_step == 0
    assert cosine.trunk_key != longer.trunk_key and cosine.key != run_spec.key
    power = run_spec.model_copy(update={"tokens": 2 * run_spec.tokens})
    assert power.trunk_key == run_spec.trunk_key


@pytest.mark.parametrize(
    "schedule",
    [Schedule(warmup_tokens=5, p=0.5), Schedule(warmup_tokens=5, cooldown_shape="linear"), Cosine(warmup_tokens=5)],
)
def test_a_spec_keeps_its_schedule_through_json(run_spec: RunSpec, schedule: Schedule | Cosine) -> None:
    spec = run_spec.model_copy(update={"schedule": schedule})
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec and type(again.schedule) is type(schedule) and again.key == spec.key


def test_specs_from_before_there_was_a_choice_keep_their_keys(run_spec: RunSpec) -> None:
    document = json.loads(run_spec.model_dump_json())
    assert document["schedule"] == {"p": 0.0, "warmup_tokens": 128, "cooldown": 0.2}
    linear = run_spec.schedule.model_copy(update={"cooldown_shape": "linear"})
    assert run_spec.model_copy(update={"schedule": linear}).key != run_spec.key
