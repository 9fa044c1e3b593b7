"""From how a run ended to its record."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version

import torch

from ..models.flops import six_n, training_flops
from .corpus.store import Corpus
from .divergence import Diverged
from .evaluate import HeldOutLoss
from .record import CurvePoint, RunRecord
from .spec import RunSpec


def diverged_in_words(end: Diverged, lr: float, n_steps: int) -> str:
    """Why a run ended: what happened, at which step and learning rate, after which last finite loss."""
    last = "there was no finite loss" if end.last_finite is None else f"last finite loss {end.last_finite:.4f}"
    return f"{end.what} at step {end.step} of {n_steps}, learning rate {lr:.3g}; {last}"


def record_of(
    spec: RunSpec,
    corpus: Corpus,
    test_loss: HeldOutLoss | None,
    error: str | None,
    curve: tuple[CurvePoint, ...],
    tokens_per_s: float | None,
    wall_s: float,
    device: str,
) -> RunRecord:
    """The record of a run that has ended, `test_loss` None where it diverged; `tokens_per_s` and `wall_s` as measured."""
    shape = spec.model
    return RunRecord(
        key=spec.key,
        state="done" if error is None else "diverged",
        N_total=shape.n_total,
        N_non_embedding=shape.n_non_embedding,
        N_matmul=shape.n_matmul,
        D=spec.tokens,
        C_6nd=float(six_n(shape.n_total) * spec.tokens),
        C_exact=training_flops(shape).total * spec.tokens,
        test_loss=test_loss.mean if test_loss else None,
        test_loss_se=test_loss.standard_error if test_loss else None,
        bits_per_byte=test_loss.bits_per_byte if test_loss else None,
        loss_by_source=test_loss.by_source(corpus.source_names) if test_loss else {},
        test_loss_clean=test_loss.in_band(clean=True) if test_loss else None,
        test_loss_dirty=test_loss.in_band(clean=False) if test_loss else None,
        accuracy=test_loss.accuracy if test_loss else None,
        exact_match=test_loss.exact_match if test_loss else {},
        curve=curve,
        lr=spec.optimizer.lr,
        batch_tokens=spec.batch_tokens,
        seed=spec.seed,
        tokens_per_s=tokens_per_s,
        wall_s=wall_s,
        corpus=spec.corpus,
        spec=spec.model_dump_json(),
        sixnd_version=version("sixnd"),
        torch_version=torch.__version__,
        device=device,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        error=error,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
