"""From a sweep's rows and columns to its cells: which model is trained on how many tokens, and why some cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt

from pydantic import ValidationError

from ...models.config import ModelConfig
from ...models.ladder import SMALLEST, shape_for
from ..spec import IsoFlop, SpecError, SweepSpec
from ..toml import said

FLOPS_PER_PARAMETER_AND_TOKEN = 6
LEAST_STEPS = 100  # fewer are mostly warm-up and cooldown
# The loss-optimal batch in tokens, B = 0.58 D^0.571 (Li et al. 2025, "Step Law", arXiv 2503.04715), and how far beyond it a batch
# still counts as sensible: their loss surfaces are flat in log B, and four times the optimum is the edge of the flat part.
STEP_LAW_BATCH, STEP_LAW_EXPONENT = 0.58, 0.571
LARGEST_BATCH = 4.0

Cells = Mapping[ModelConfig, tuple[int, ...]]  # D of each model, rising


def cells_of(sweep: SweepSpec, vocab_size: int) -> Cells:
    """The grid, every D cut to whole batches, every cell once; rows in the order of the spec, or by N with [isoflop].

    Raises:
        SpecError: rows outside the ladder or on one shape, a batch that is no whole number of contexts; one line for each.
    """
    settings, problems = sweep.train, []
    if settings.batch_tokens % settings.context:
        problems.append(
            f"{sweep.name}: train.batch_tokens = {settings.batch_tokens} is not a multiple of train.context = {settings.context}"
        )
    cells: dict[ModelConfig, set[int]] = {}
    try:
        if sweep.isoflop:
            for flops in sorted(sweep.isoflop.flops):
                curve = {_model(sweep, shape, vocab_size) for shape in _around(sweep.isoflop, flops, vocab_size)}
                if len(curve) < 3:
                    problems.append(
                        f"{sweep.name}: isoflop.flops: {flops:.3g} FLOPs leave {len(curve)} different models of the ladder,"
                        " and a curve needs 3; give more FLOPs, or a larger spread"
                    )
                for model in curve:
                    cells.setdefault(model, set()).add(_whole(flops / (6 * model.n_total), settings.batch_tokens))
            cells = dict(sorted(cells.items(), key=lambda cell: cell[0].n_total))
        else:
            shapes = sweep.shapes or [shape_for(n) for n in sweep.params]
            for shape in shapes:
                try:
                    model = _model(sweep, shape, vocab_size)
                except ValidationError as error:  # such as a width that its heads do not divide
                    problems += [f"{sweep.name}: shapes: {list(shape)}: {said(why)}" for why in error.errors()]
                    continue
                wanted = [float(tokens) for tokens in sweep.tokens]
                wanted += [ratio * model.n_total for ratio in sweep.tokens_per_parameter]
                cells[model] = {_whole(tokens, settings.batch_tokens) for tokens in wanted}
            if len(set(shapes)) < len(shapes):
                problems.append(
                    f"{sweep.name}: params: two values fall on one shape ({shapes}); give them further apart"
                )
    except ValueError as error:
        key = "isoflop" if sweep.isoflop else "shapes" if sweep.shapes else "params"
        problems.append(f"{sweep.name}: {key}: {error}")
    if problems:
        raise SpecError("\n".join(problems))
    return {model: tuple(sorted(tokens)) for model, tokens in cells.items()}


def problems_of(sweep: SweepSpec, cells: Cells, most_tokens: int) -> Iterator[str]:
    """A line for each D that no run of a sweep should have."""
    yield from impossible(sweep, cells, most_tokens)
    yield from unwise(sweep, cells)


def impossible(sweep: SweepSpec, cells: Cells, most_tokens: int) -> Iterator[str]:
    """A line for each D beyond one epoch of `most_tokens` unique tokens, or below one batch."""
    for tokens, cell in _columns(sweep, cells):
        if tokens > most_tokens:
            yield (
                f"{cell} is beyond one epoch: the corpus has {most_tokens:,} unique training tokens at context"
                f" {sweep.train.context}; no run may see a token twice"
            )
        if not tokens:
            yield f"{cell} is less than one batch of {sweep.train.batch_tokens:,}"


def unwise(sweep: SweepSpec, cells: Cells) -> Iterator[str]:
    """A line for each D with too few steps, and one for a batch too large for the smallest D that has enough."""
    batch, context = sweep.train.batch_tokens, sweep.train.context
    enough = []
    for tokens, cell in _columns(sweep, cells):
        if tokens >= LEAST_STEPS * batch:
            enough.append(tokens)
        elif tokens:
            largest = tokens // LEAST_STEPS // context * context
            smaller = f", or train.batch_tokens of at most {largest:,}" if largest else ""
            yield (
                f"{cell} is {tokens // batch} steps of train.batch_tokens = {batch:,}, and at least {LEAST_STEPS} are wanted:"
                f" give D of at least {LEAST_STEPS * batch:,}{smaller}"
            )
    most = LARGEST_BATCH * STEP_LAW_BATCH * min(enough, default=0) ** STEP_LAW_EXPONENT
    if enough and batch > most:
        yield (
            f"{sweep.name}: train.batch_tokens = {batch:,} is too large for D = {min(enough):,}: at most {most:,.0f},"
            f" {LARGEST_BATCH:g} times the optimum 0.58 D^0.571 of arXiv 2503.04715"
        )


def _columns(sweep: SweepSpec, cells: Cells) -> Iterator[tuple[int, str]]:
    """Every D, rising, and what a line about it begins with: a column of all rows by its D alone, another cell by N too."""
    key = next(key for key in ("tokens", "tokens_per_parameter", "isoflop") if getattr(sweep, key))
    models: dict[int, list[ModelConfig]] = {}
    for model, columns in cells.items():
        for tokens in columns:
            models.setdefault(tokens, []).append(model)
    for tokens, rows in sorted(models.items()):
        asked = next((d for d in sweep.tokens if _whole(d, sweep.train.batch_tokens) == tokens), tokens)
        row = "" if len(rows) == len(cells) else f"N = {rows[0].n_total:,}, "
        yield tokens, f"{sweep.name}: {key}: {row}D = {asked:,}"


def _whole(tokens: float, batch_tokens: int) -> int:
    return int(tokens) // batch_tokens * batch_tokens


def _model(sweep: SweepSpec, shape: tuple[int, int], vocab_size: int) -> ModelConfig:
    model = ModelConfig.from_shape(*shape, vocab_size, sweep.train.context)
    return model.model_copy(update={"qk_norm": sweep.train.qk_norm})


def _around(curve: IsoFlop, flops: float, vocab_size: int) -> list[tuple[int, int]]:
    """Shapes of the ladder, spaced geometrically around the guessed optimum of `flops`; none below its smallest."""
    if curve.fit is None:
        guess = sqrt(flops / (FLOPS_PER_PARAMETER_AND_TOKEN * curve.tokens_per_parameter))
    else:
        from ...analysis.predict import load_fit, predict_at_flops

        guess = float(predict_at_flops(load_fit(curve.fit), flops)["N_opt"])
    steps = [2 * i / (curve.sizes - 1) - 1 for i in range(curve.sizes)]
    return [shape_for(max(SMALLEST, round(guess * curve.spread**step)), vocab_size) for step in steps]
