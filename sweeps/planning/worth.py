"""What a grid will tell: expected standard errors under a guessed law. What imports scipy here is called through
`own_process`."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import SpecError
from .plan import Plan

# A law that the demo's own grid gave (LOG.md): of models of this kind and size, on plain English text. Laws of large models put
# their constant and both terms elsewhere.
DEMO_LAW = (411.0, 145.0, 1.76, 0.55, 0.33)  # A, B, E, alpha, beta
NOISE = 0.005  # standard deviation of log L between seeds; of the order of what small runs show
CAVEAT = "first-order, for independent runs and a law that holds; runs of one trunk and seed are not independent"


@dataclass(frozen=True)
class Guess:
    """The law and noise that a grid is judged under, before it is trained."""

    params: tuple[float, ...] = DEMO_LAW  # A, B, E, alpha, beta
    noise: float = NOISE
    source: str = "the demo's law"


@dataclass(frozen=True)
class Worth:
    """Expected standard errors of the exponents, and of a in N* ~ C^a."""

    runs: int
    alpha: float
    beta: float
    a: float


def guess_of(fit: str | None, noise: float | None) -> Guess:
    """The law of a fit.json with the noise that its residuals show, or the demo's; `noise` replaces either's.

    Raises:
        SpecError: the noise is not positive, or the fit is of a law without the five parameters.
        FitError: the file is no fit.
    """
    if noise is not None and not 0 < noise < 1:
        raise SpecError(f"--noise {noise:g}: the standard deviation of log L between equal runs, above 0 and below 1")
    if fit is None:
        return Guess(noise=noise or NOISE)
    from ...analysis.predict import load_fit

    found = load_fit(fit)
    names = ("A", "B", "E", "alpha", "beta")
    if set(found.params) != set(names):
        raise SpecError(
            f"--fit {fit}: of the law {found.law}; allowed is one of A, B, E, alpha, beta, such as chinchilla"
        )
    shown = found.seed_sd or found.rms_log_residual or NOISE
    return Guess(tuple(found.params[name] for name in names), noise or shown, fit)


def worth_of(plan: Plan, guess: Guess) -> Worth | None:
    """Expected errors for the runs of the plan, None where they cannot identify the law: fewer than 3 N or 3 D.

    Raises:
        FitError: the guessed law has no optimum.
    """
    import numpy as np

    from ...analysis.design.information import expected_errors

    N = np.array([run.model.n_total for run in plan.runs], dtype=np.float64)
    D = np.array([run.tokens for run in plan.runs], dtype=np.float64)
    if len(set(N)) < 3 or len(set(D)) < 3:
        return None
    found = expected_errors(N, D, np.array(guess.params), guess.noise, C_target=60 * float((N * D).max()))
    return Worth(len(N), found.alpha, found.beta, found.a)
