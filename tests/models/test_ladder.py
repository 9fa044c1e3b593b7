"""The ladder over its whole range: monotone, near its targets, of usual proportions."""

from __future__ import annotations

import pytest
from sixnd.models.config import ModelConfig
from sixnd.models.ladder import LARGEST, SMALLEST, rungs, shape_for, usual_ratio

BOUNDS = {20_000: 0.20, 100_000: 0.13, 10_000_000: 0.06, 100_000_000: 0.04}  # as the file says


def targets() -> list[int]:
    """Every percent from 20k to 10B."""
    steps = [round(SMALLEST * 1.01**i) for i in range(1400)]
    return [target for target in steps if target <= LARGEST]


def test_it_never_falls_and_comes_as_near_as_it_says() -> None:
    last = 0
    for target in targets():
        n_layers, d_model = shape_for(target)
        n = ModelConfig.from_shape(n_layers, d_model, 1024).n_non_embedding
        bound = next(BOUNDS[start] for start in sorted(BOUNDS, reverse=True) if target >= start)
        assert abs(n / target - 1) <= bound, f"{target:,} got {n:,}"
        assert n >= last
        assert 0.33 < d_model / n_layers / usual_ratio(d_model) <= 2
        last = n
    assert len(targets()) > 1300


def test_head_dims() -> None:
    dims = {ModelConfig.from_shape(*shape_for(target), 1024).head_dim for target in targets()[::20]}
    assert dims == {16, 32, 64}


def test_rungs() -> None:
    assert rungs(20_000, 500_000) == [20_000, 50_000, 100_000, 200_000, 500_000]
    assert rungs(30_000, 60_000) == [50_000]
    assert len(rungs(20_000, 10**9)) == 15
    assert rungs(10**10, 10**10) == [10**10]
    for smallest, largest, says in (
        (10, 10**6, "20k to 10B"),
        (10**6, 10**5, "goes up"),
        (10**6, 10**11, "20k to 10B"),
        (30_000, 40_000, "no rung"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            rungs(smallest, largest)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", [0, SMALLEST - 1, LARGEST + 1])
def test_a_target_off_the_ladder_is_refused_in_one_line(target: int) -> None:
    with pytest.raises(ValueError, match=f"N = {target:,} .* outside the ladder: 20k to 10B"):
        shape_for(target)
