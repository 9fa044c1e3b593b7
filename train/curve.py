"""Where on a run its training curve is measured. Imports no torch: a plan needs it too."""

from __future__ import annotations

# A curve's points: together at most 5 % of a run of 0.5M tokens, where evaluation runs at 2.2 times the speed of
# training. Neither D nor the model enters, so that every run of a sweep is measured at the same tokens on the same text.
CURVE_FIRST_TOKENS = 32_768
CURVE_POINTS_PER_DECADE = 4
CURVE_POSITIONS = 8192  # token positions of the sample behind one point


def evaluation_steps(n_steps: int, first: int, per_decade: int) -> tuple[int, ...]:
    """Steps after which a run is evaluated: `first`, then `per_decade` a factor of ten, and the last step.

    Those before the last do not depend on `n_steps`: runs that share a trunk are evaluated at the same places on it.
    """
    steps, power = set[int](), 0
    while (step := round(first * 10 ** (power / per_decade))) < n_steps:
        steps.add(step)
        power += 1
    return (*sorted(steps), n_steps)


def curve_steps(n_steps: int, batch_tokens: int) -> tuple[int, ...]:
    """The steps of a run's training curve; the last is its end."""
    return evaluation_steps(n_steps, max(1, round(CURVE_FIRST_TOKENS / batch_tokens)), CURVE_POINTS_PER_DECADE)
