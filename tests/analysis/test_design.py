import json

import numpy as np
import numpy.typing as npt
import pytest
from sixnd.analysis.budgets.frontier import exponent_a, optima
from sixnd.analysis.design.information import (
    PRIOR_SD,
    bootstrap_noise,
    effective_variance,
    expected_errors,
    local,
    noise_of,
)
from sixnd.analysis.design.next_runs import (
    candidates,
    next_runs,
    plain_grids,
)
from sixnd.analysis.design.selection import Told, cost, flops_each
from sixnd.analysis.laws import FitError
from sixnd.train.schedule import Schedule

Array = npt.NDArray[np.float64]
PARAMS = np.array([400.0, 1500.0, 1.8, 0.34, 0.37])
NOISE = 0.004
DELTA = 1e-3


def grid(sizes: int, lengths: int, top_N: float = 1e8, top_D: float = 2e9) -> tuple[Array, Array]:
    N, D = np.meshgrid(np.geomspace(1e7, top_N, sizes), np.geomspace(2e8, top_D, lengths))
    return N.ravel(), D.ravel()


def log_loss(theta: Array, N: Array, D: Array) -> Array:
    """theta (S, 5): log A, log B, E, alpha, beta -> (S, n)."""
    A, B, E, alpha, beta = theta.T[:, :, None]
    return np.log(np.exp(A - alpha * np.log(N)) + np.exp(B - beta * np.log(D)) + E)


def refits(N: Array, D: Array, noise: float, delta: float | None, draws: int, seed: int = 0) -> Array:
    """Params (draws, 5) fitted to fresh noise: iteratively reweighted Gauss-Newton with numerical derivatives, from the truth."""
    truth = np.array([[np.log(PARAMS[0]), np.log(PARAMS[1]), *PARAMS[2:]]])
    y = log_loss(truth, N, D) + noise * np.random.default_rng(seed).standard_normal((draws, len(N)))
    theta = np.repeat(truth, draws, axis=0)
    for _ in range(12 if delta is None else 150):
        r = y - log_loss(theta, N, D)
        w = np.ones_like(r) if delta is None else np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300))
        steps = 1e-6 * np.eye(5)
        jacobian = np.stack([(log_loss(theta + h, N, D) - log_loss(theta - h, N, D)) / 2e-6 for h in steps], axis=2)
        root = np.sqrt(w)[:, :, None]
        q, t = np.linalg.qr(jacobian * root)
        theta = theta + np.linalg.solve(t, np.swapaxes(q, 1, 2) @ (root * r[:, :, None]))[:, :, 0]
    return np.column_stack([np.exp(theta[:, :2]), theta[:, 2:]])


def spread(params: Array, C: float) -> dict[str, float]:
    N, _, loss, _ = optima(params, np.array([C]))
    values = {
        "alpha": params[:, 3],
        "beta": params[:, 4],
        "E": params[:, 2],
        "a": exponent_a(params),
        "log_N": np.log(N[:, 0]),
        "log_L": np.log(loss[:, 0]),
    }
    return {name: float(value.std(ddof=1)) for name, value in values.items()}


@pytest.mark.parametrize("delta", [None, DELTA])
def test_expected_errors_are_those_of_refits(delta: float | None) -> None:
    N, D = grid(6, 6, 1e9, 2e10)
    C = 60 * float((N * D).max())
    expected = expected_errors(N, D, PARAMS, NOISE, C_target=C, delta=delta)
    for name, simulated in spread(refits(N, D, NOISE, delta, 400), C).items():
        assert getattr(expected, name) == pytest.approx(simulated, rel=0.2), name


@pytest.mark.parametrize("target", ["a", "N", "L", "det"])
def test_design_beats_a_plain_grid_in_expectation(target: str) -> None:
    N, D = grid(5, 5)
    flops = cost(N, D)
    samples = PARAMS * np.exp(0.02 * np.random.default_rng(1).standard_normal((40, 5)))
    design = next_runs(PARAMS, N, D, flops, noise=NOISE, target=target, samples=samples)
    assert design.plain is not None and design.variance_ratio is not None and design.variance_ratio > 1.15
    assert design.after.of(target) < 0.8 * design.before.of(target)
    assert 0.85 * flops < design.flops <= flops and design.flops == pytest.approx(cost(design.N, design.D))
    assert design.plain.flops == pytest.approx(flops, rel=1e-6)
    assert design.plain.flops == pytest.approx(cost(design.plain.N, design.plain.D))
    fixed = next_runs(PARAMS, N, D, flops, noise=NOISE, target=target)
    others = [
        expected_errors(np.append(N, n), np.append(D, d), PARAMS, NOISE, C_target=fixed.C_target).of(target)
        for n, d in plain_grids(N, D, flops, 0.2)
    ]
    assert fixed.plain is not None and len(others) > 2
    assert fixed.plain.errors.of(target) == pytest.approx(min(others), rel=1e-2) and min(others) < 0.99 * max(others)


def test_design_beats_a_plain_grid_in_refits() -> None:
    N, D = grid(5, 5)
    design = next_runs(PARAMS, N, D, cost(N, D), noise=NOISE, target="a")
    assert design.plain is not None and design.variance_ratio is not None
    with_design, with_plain = (
        spread(refits(np.append(N, n), np.append(D, d), NOISE, DELTA, 300), design.C_target)["a"]
        for n, d in ((design.N, design.D), (design.plain.N, design.plain.D))
    )
    assert with_design == pytest.approx(design.after.a, rel=0.2)
    assert with_plain == pytest.approx(design.plain.errors.a, rel=0.2)
    assert (with_plain / with_design) ** 2 > 0.6 * design.variance_ratio > 1


def test_gradients_are_derivatives() -> None:
    N, D = grid(3, 3)
    at = local(PARAMS[None], N, D)
    loss_0 = 400 / at.N_0**0.34 + 1500 / at.D_0**0.37 + 1.8
    C = 1e20

    def params(theta: Array) -> Array:
        log_A, log_B, E, alpha, beta = theta
        return np.array([np.exp(log_A + alpha * np.log(at.N_0)), np.exp(log_B + beta * np.log(at.D_0)), E * loss_0, alpha, beta])  # fmt: skip

    middle = np.array([np.log(400) - 0.34 * np.log(at.N_0), np.log(1500) - 0.37 * np.log(at.D_0), 1.8 / loss_0, 0.34, 0.37])  # fmt: skip

    def both(theta: Array) -> tuple[Array, Array]:
        p = params(theta)
        best_N, _, best_loss, _ = optima(p[None], np.array([C]))
        loss = p[0] / N ** p[3] + p[1] / D ** p[4] + p[2]
        targets = [p[3], p[4], p[2], p[4] / (p[3] + p[4]), np.log(best_N[0, 0]), np.log(best_loss[0, 0])]
        return np.log(loss), np.array(targets)

    assert params(middle) == pytest.approx(PARAMS)
    gradient, directions = at.gradient(N, D)[0], np.stack([c[0] for c in at.directions(C).values()])
    for k, step in enumerate(1e-5 * np.eye(5)):
        up, down = both(middle + step), both(middle - step)
        assert gradient[:, k] == pytest.approx((up[0] - down[0]) / 2e-5, abs=1e-8)
        assert directions[:, k] == pytest.approx((up[1] - down[1]) / 2e-5, abs=1e-5)


def test_robust_fits_pay_in_variance() -> None:
    """Huber 1964: nothing at a wide delta, 5 % at 1.345 standard deviations, pi/2 at the L1 limit."""
    ratio = [effective_variance(0.01, delta) / 1e-4 for delta in (None, 1.0, 0.01345, 1e-6, 1e-9)]
    assert ratio == pytest.approx([1, 1, 1 / 0.95, np.pi / 2, np.pi / 2], rel=1e-3)
    N, D = grid(5, 5)
    squares, robust = (expected_errors(N, D, PARAMS, NOISE, C_target=1e20, delta=d).a for d in (None, DELTA))
    assert 1.05 < robust / squares < np.sqrt(np.pi / 2)


def test_noise_of_residuals() -> None:
    residuals = 0.01 * np.random.default_rng(0).standard_normal(4000)
    assert noise_of(residuals) == pytest.approx(0.01, rel=0.05)
    assert noise_of(np.append(residuals, 5.0)) == pytest.approx(0.01, rel=0.05)
    for nothing in (np.zeros(20), np.ones(4)):
        with pytest.raises(FitError, match="no noise"):
            noise_of(nothing)


def test_trunks_are_paid_once_as_the_plan_counts_them() -> None:
    schedule = Schedule(warmup_tokens=0)
    N, D = np.array([1e8, 1e7, 1e7, 1e7]), np.array([1e9, 4e9, 1e9, 2e9])
    expected, position = np.zeros(4), 0
    expected[0] = 6 * 1e8 * 1e9
    for run in (2, 3, 1):
        branch = schedule.cooldown_start(int(D[run]))
        expected[run] = 6 * 1e7 * ((branch - position) + (D[run] - branch))
        position = branch
    assert flops_each(N, D) == pytest.approx(expected)
    assert cost(N, D, cooldown=1.0) == pytest.approx(6 * (N * D).sum())
    assert cost(N, D) < 0.9 * cost(N, D, cooldown=1.0)


def test_runs_that_do_not_separate_the_exponents_are_seen() -> None:
    """At a fixed number of tokens per parameter the prior alone limits the error; the design leaves that line."""
    N = np.geomspace(1e7, 1e9, 12)
    D = 20 * N
    design = next_runs(PARAMS, N, D, 0.5 * cost(N, D), noise=NOISE, target="a")
    assert design.before.log_N > 1 and design.after.log_N < 0.3 * design.before.log_N
    assert np.ptp(np.log(design.D / design.N)) > np.log(4)
    alone = expected_errors(np.full(9, 1e8), np.geomspace(1e8, 1e10, 9), PARAMS, NOISE, C_target=1e20)
    assert alone.alpha == pytest.approx(PRIOR_SD[3], rel=0.05)


@pytest.mark.parametrize("times", [0.05, 1.0, 100.0, 1e5])
@pytest.mark.parametrize("target", ["L", "det"])
def test_design_never_ends_behind_the_plain_grid(target: str, times: float) -> None:
    N, D = grid(4, 4)
    samples = PARAMS * np.exp(0.05 * np.random.default_rng(2).standard_normal((20, 5)))
    design = next_runs(PARAMS, N, D, times * cost(N, D), noise=NOISE, target=target, samples=samples)
    assert design.variance_ratio is None or design.variance_ratio > 0.999
    assert len(design.N) <= 64 and design.after.of(target) < design.before.of(target)


def test_search_also_starts_from_the_plain_grid() -> None:
    """Where the number of runs binds and not the budget, greedy starts alone end at 1.5."""
    N, D = grid(5, 5, 1e9, 2e10)
    ratio = next_runs(PARAMS, N, D, 1000 * cost(N, D), noise=NOISE, target="det").variance_ratio
    assert ratio is not None and ratio > 1.58


@pytest.mark.parametrize("direction", [None, np.array([[0.3, -1.0, 2.0], [1.0, 0.0, 0.0]])])
def test_gains_are_what_a_run_lowers(direction: Array | None) -> None:
    rng = np.random.default_rng(0)
    told = Told(np.stack([np.eye(3), 2 * np.eye(3)]), rng.standard_normal((2, 6, 3)), direction)
    before = told.uncertainty([1, 4])
    lowered = [before - told.uncertainty([1, 4, run]) for run in range(6)]
    assert told.gains([1, 4]) == pytest.approx(np.array(lowered))


def test_samples_that_are_no_law_are_left_out() -> None:
    N, D = grid(5, 5)
    broken = np.array([[400, 1500, 1.8, 0.0, 0.37], [np.nan] * 5, [400, 0, 1.8, 0.34, 0.37], PARAMS])
    design = next_runs(PARAMS, N, D, cost(N, D), noise=NOISE, samples=broken)
    assert design.after.a == pytest.approx(next_runs(PARAMS, N, D, cost(N, D), noise=NOISE).after.a, rel=1e-6)


def test_bootstrap_noise_answers_for_misfit() -> None:
    """Samples as wide as expected leave the noise; samples twice as wide double it; narrower ones do not lower it."""
    N, D = grid(6, 6)
    samples = refits(N, D, NOISE, None, 600, seed=3)
    centre = samples.mean(axis=0)
    for times, factor in ((1.0, 1.0), (2.0, 2.0), (0.5, 1.0)):
        raised = bootstrap_noise(NOISE, N, D, PARAMS, centre + times * (samples - centre), None)
        assert raised == pytest.approx(factor * NOISE, rel=0.08)


def test_limits_are_kept() -> None:
    N, D = grid(5, 5)
    flops = cost(N, D)
    design = next_runs(PARAMS, N, D, flops, noise=NOISE, most_tokens=1.5e9)
    assert design.D.max() <= 1.5e9 and design.plain is not None and design.plain.D.max() <= 1.5e9 * (1 + 1e-9)
    tight = next_runs(PARAMS, N, D, flops, noise=NOISE, most_tokens=1.5e8)
    assert tight.D.max() <= 1.5e8
    n, d = candidates(N, D, flops)
    assert (6 * n * d <= flops).all() and (d / n <= 2 * (D / N).max()).all() and (d / n >= (D / N).min() / 2).all()
    assert len(set(zip(design.N, design.D, strict=True))) == len(design.N)


def test_json() -> None:
    N, D = grid(5, 5)
    design = next_runs(PARAMS, N, D, cost(N, D), noise=NOISE, target="L", C_target=1e20)
    content = json.loads(json.dumps(design.to_json(), allow_nan=False))
    assert [run["N"] for run in content["runs"]] == list(design.N) and "N" not in content
    assert sum(run["flops"] for run in content["runs"]) == pytest.approx(content["flops"])
    assert content["before"]["log_L"] > content["plain"]["errors"]["log_L"] > content["after"]["log_L"]
    assert content["C_target"] == 1e20 and content["variance_inflation"] > 1
    json.dumps(expected_errors(N, D, PARAMS, NOISE, C_target=1e20).to_json(), allow_nan=False)


def test_wrong_settings_are_one_clear_line() -> None:
    N, D = grid(5, 5)
    good = {"flops": cost(N, D), "noise": NOISE}
    for wrong, message in (
        ({"target": "b"}, "target must be one of a, N, L, det"),
        ({"flops": -1.0}, "flops must be positive"),
        ({"flops": 1e10}, "afford no run; the cheapest candidate takes"),
        ({"most_tokens": 1e3}, "most_tokens = 1e\\+03 is below"),
        ({"noise": 0.0}, "noise is the standard deviation"),
        ({"delta": 0.0}, "delta must be above 0"),
        ({"cooldown": 2.0}, "cooldown is a share"),
        ({"C_target": float("nan")}, "C_target must be positive"),
    ):
        with pytest.raises(FitError, match=message) as error:
            next_runs(PARAMS, N, D, **(good | wrong))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(FitError, match="no compute-optimal point"):
        next_runs(np.array([400, 0, 1.8, 0.3, 0.3]), N, D, **good)
    with pytest.raises(FitError, match="N and D of every run"):
        expected_errors(-N, D, PARAMS, NOISE, C_target=1e20)
