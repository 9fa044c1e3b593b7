"""The ladder of shapes, `sixnd models ladder`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from .corpus import console

models_app = App(name="models", help="Shapes of models.", help_format="markdown")


@models_app.command
def ladder(
    *,
    vocab: int = 1024,
    start: Annotated[str, Parameter(name="--from")] = "20k",
    stop: Annotated[str, Parameter(name="--to")] = "1B",
    context: int = 256,
) -> None:
    """Print the shape that each target N gets, its parameters under each convention, and its training FLOPs per token.

    Example: `sixnd models ladder --vocab 4096 --from 1M --to 100M`

    Parameters
    ----------
    vocab
        Tokens of the vocabulary.
    start
        The smallest target: non-embedding parameters, from 20k.
    stop
        The largest, up to 10B.
    context
        Tokens a model sees at once; only C_exact depends on it.
    """
    from ...models.config import ModelConfig
    from ...models.flops import six_n, training_flops
    from ...models.ladder import rungs, shape_for
    from ..show import short, table_of
    from ..spec import SpecError, count_option

    if vocab < 2 or context < 8:
        raise SpecError(f"--vocab {vocab} --context {context}: at least 2 and 8")
    rows: list[dict[str, str | int | float]] = []
    smallest, largest = count_option("--from", start), count_option("--to", stop)
    try:
        targets = rungs(smallest, largest)
    except ValueError as error:
        raise SpecError(f"models ladder: {error}") from None
    for target in targets:
        shape = ModelConfig.from_shape(*shape_for(target), vocab, context)
        rows.append(
            {
                "target N": short(target),
                "layers x width": f"{shape.n_layers} x {shape.d_model}",
                "heads x head dim": f"{shape.n_heads} x {shape.head_dim}",
                "d_ff": shape.d_ff,
                "N_total": shape.n_total,
                "N_non_embedding": shape.n_non_embedding,
                "off target": f"{shape.n_non_embedding / target - 1:+.1%}",
                "N_matmul": shape.n_matmul,
                "C_6nd per token": f"{six_n(shape.n_total):.4e}",
                "C_exact": f"{training_flops(shape).total:.4e}",
            }
        )
    console.print(table_of(rows))
    console.print(
        f"target N: non-embedding parameters; vocabulary {vocab:,}, context {context}; C_6nd = 6 · N_total and C_exact"
        " (matrix products, causal attention) in training FLOPs a token"
    )
