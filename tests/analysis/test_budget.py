import json

import pytest
from sixnd.analysis.budgets.budget import H100, Machine, flops_of
from sixnd.analysis.laws import FitError

SUSTAINED = 989.4e12 * 0.4 * 3600


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("1e18", 1e18),
        ("1_000_000", 1e6),
        ("1e18 FLOPs", 1e18),
        ("3 EFLOP", 3e18),
        (" 2.5 zflops ", 2.5e21),
        ("2 PF-days", 2 * 8.64e19),
        ("200 GPU-hours", 200 * SUSTAINED),
        ("1.5k gpu hours", 1500 * SUSTAINED),
        ("30 GPU-days", 720 * SUSTAINED),
        ("$500", 250 * SUSTAINED),
        ("$1,500", 750 * SUSTAINED),
        ("2M USD", 1e6 * SUSTAINED),
        ("USD 40k", 2e4 * SUSTAINED),
        ("12 dollars", 6 * SUSTAINED),
    ],
)
def test_budgets_in_words(text: str, flops: float) -> None:
    assert flops_of(text).flops == pytest.approx(flops)


def test_says_what_it_assumed() -> None:
    machine = Machine("A100, dense bf16", peak=312e12, mfu=0.5, dollars_per_hour=1.25)
    budget = flops_of("$1000", machine)
    assert budget.flops == pytest.approx(800 * 3600 * 156e12)
    assert budget.gpu_hours == pytest.approx(800) and budget.dollars == pytest.approx(1000)
    assert all(said in budget.assumptions for said in ("1.25 dollars", "312 TFLOP/s", "A100", "50%"))
    assert "dollars" not in flops_of("800 GPU-hours", machine).assumptions
    assert flops_of("1e18").assumptions == ""
    content = json.loads(json.dumps(budget.to_json(), allow_nan=False))
    assert content["machine"]["mfu"] == 0.5 and content["gpu_hours"] == pytest.approx(800)
    assert content["given"] == "$1000"


@pytest.mark.parametrize("text", ["", "lots", "1e18 FLOP/s", "-5", "$", "£500", "200 hours", "nan", "inf", "$500 $600"])
def test_anything_else_is_one_clear_line(text: str) -> None:
    with pytest.raises(FitError, match="is not understood: give FLOPs") as error:
        flops_of(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["0", "$0", "1e999", "0 gpu-hours"])
def test_nothing_and_infinity_are_refused(text: str) -> None:
    with pytest.raises(FitError, match="must be positive and finite"):
        flops_of(text)


@pytest.mark.parametrize(("key", "value"), [("mfu", 1.2), ("mfu", 0.0), ("peak", -1.0), ("dollars_per_hour", 0.0)])
def test_machines_are_checked(key: str, value: float) -> None:
    with pytest.raises(FitError, match=key):
        Machine(**{key: value})
    assert H100.flops_per_hour == pytest.approx(SUSTAINED)
