"""The learning rate: warm-up, power law, cooldown; the trunk never looks at D."""

from __future__ import annotations

import math

import pytest
from sixnd.train.optimizer import beta2_for, peak_lr
from sixnd.train.schedule import Schedule

BATCH = 100


def curve(schedule: Schedule, tokens: int) -> list[float]:
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


def test_beta2_keeps_a_half_life_in_tokens() -> None:
    assert beta2_for(2048) == 0.999
    assert beta2_for(20_000) ** (2e6 / 20_000) == pytest.approx(0.5)
    assert beta2_for(10**7) == 0.95


def test_default_peak_falls_with_n() -> None:
    rates = [peak_lr(n) for n in (10_000, 100_000, 1_000_000, 100_000_000)]
    assert rates == sorted(rates, reverse=True) and rates[0] <= 0.02
