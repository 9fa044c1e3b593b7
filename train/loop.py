"""One run, from its spec to its record. The training step is `train_step`.

Shape suffixes: W windows (sequences), T time (tokens).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from ..models.flops import six_n, training_flops
from ..models.transformer import Transformer
from .batches import BatchStream
from .checkpoint import checkpoint_path, load_newest_checkpoint, save_checkpoint
from .corpus.build import open_corpus
from .corpus.store import Corpus, unique_tokens
from .device import compile_model, device_name, micro_batch_rows, pick_device
from .evaluate import HeldOutLoss, HeldOutWindows, evaluate
from .optimizer import build_optimizer
from .progress import Listener, Progress, TqdmListener
from .record import RunRecord
from .spec import RunSpec

LOG_EVERY = 10  # steps between looks at the loss: on a GPU each look waits for the device
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class RunError(ValueError):
    """A run that cannot be trained as asked; its message is one line."""


@dataclass(frozen=True)
class Diverged(Exception):
    """The loss stopped being finite."""

    step: int
    last_finite_loss: float


def train(
    spec: RunSpec,
    *,
    corpora: Path | None = None,
    checkpoints: Path | None = None,
    listener: Listener | None = None,
    say: Callable[[str], None] = print,
) -> RunRecord:
    """Trains one model for one epoch of `spec.tokens` and evaluates it on the whole test set.

    The same spec gives the same record, bit for bit on one CPU thread, whether it starts from nothing or from a
    checkpoint that another D of its trunk left.

    Args:
        spec: the run.
        corpora: folder of built corpora; None for the default one.
        checkpoints: folder where trunks keep their branch points; None keeps none.
        listener: told of the progress every few steps; a tqdm bar where none is given.
        say: receives the few lines worth printing.

    Raises:
        RunError: D is beyond the unique tokens of the corpus, or the model does not fit its vocabulary.
        CorpusError: the corpus is missing or damaged.
    """
    started = time.perf_counter()
    corpus = open_corpus(spec.corpus, corpora)
    check_fits(spec, corpus)
    device = pick_device()
    model = Transformer(spec.model).to(device)
    model.initialize(spec.seed)
    optimizer = build_optimizer(model, spec.optimizer)
    first_step = (
        load_newest_checkpoint(checkpoints, spec.trunk_key, spec.branch_step, model, optimizer) if checkpoints else 0
    )
    compiled = compile_model(model, say)
    clock = StepClock()
    test_loss, error = None, None
    try:
        with TqdmListener(f"N {spec.model.n_total:,}") if listener is None else nullcontext(listener) as heard:
            run_steps(spec, corpus, model, optimizer, first_step, checkpoints, heard, clock)
        rows = micro_batch_rows(spec.batch_tokens, spec.model.context, device)
        test_loss = evaluate(model, corpus, HeldOutWindows.of(corpus, spec.model.context), rows, DTYPES[spec.precision])
        if not math.isfinite(test_loss.mean):
            raise Diverged(spec.n_steps, math.nan)
    except Diverged as end:
        test_loss = None
        error = f"loss not finite by step {end.step} at peak lr {spec.optimizer.lr:g}; last finite {end.last_finite_loss:.4f}"
    how = f"{device_name(device)}, {'compiled' if compiled else 'eager'} {spec.precision}"
    return _record(spec, corpus, test_loss, error, clock.tokens_per_s, time.perf_counter() - started, how)


def check_fits(spec: RunSpec, corpus: Corpus) -> None:
    """Raises RunError, before anything is trained, where the corpus cannot serve the run."""
    if spec.model.vocab_size != corpus.vocab_size:
        raise RunError(
            f"model vocabulary {spec.model.vocab_size} is not that of corpus {corpus.hash}: {corpus.vocab_size}"
        )
    most = unique_tokens(len(corpus.train), spec.model.context)
    if spec.tokens > most:
        raise RunError(
            f"D = {spec.tokens:,} is beyond one epoch: corpus {corpus.hash} has {most:,} unique training tokens"
            f" at context {spec.model.context}; no run may see a token twice"
        )


def run_steps(
    spec: RunSpec,
    corpus: Corpus,
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    first_step: int,
    checkpoints: Path | None,
    listener: Listener,
    clock: StepClock,
) -> None:
    """Trains from `first_step` to the end of the run, leaving a checkpoint at its branch point."""
    stream = BatchStream(corpus.train, spec.model.context, spec.seed)
    rows = micro_batch_rows(spec.batch_tokens, spec.model.context, model.embedding.device)
    last_finite = math.nan
    for step in range(first_step, spec.n_steps):
        if step == spec.branch_step and step > first_step and checkpoints is not None:
            save_checkpoint(checkpoint_path(checkpoints, spec.trunk_key, step), model, optimizer)
        seen = step * spec.batch_tokens
        lr = spec.optimizer.lr * spec.schedule.multiplier(
            seen, spec.batch_tokens, spec.tokens, spec.branch_step * spec.batch_tokens
        )
        loss = train_step(model, optimizer, stream.batch(seen, spec.batch_tokens), lr, spec, rows)
        clock.tick(spec.batch_tokens)
        if (step + 1) % LOG_EVERY == 0 or step + 1 in (spec.branch_step, spec.n_steps):
            value = float(loss)
            if not math.isfinite(value):
                raise Diverged(step, last_finite)
            last_finite = value
            listener(Progress(seen + spec.batch_tokens, spec.tokens, value, clock.tokens_per_s or 0.0))


def train_step(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    windows_WT: torch.Tensor,
    lr: float,
    spec: RunSpec,
    rows: int,
) -> torch.Tensor:
    """One step of AdamW on the mean loss of `windows_WT`, (W, context + 1), `rows` windows at a time.

    Returns the batch's mean loss in nats per token, on the device and without z-loss.
    """
    micro_batches = windows_WT.to(model.embedding.device, non_blocking=True).split(rows)
    total = torch.zeros((), device=model.embedding.device)
    for micro_WT in micro_batches:
        nll_WT, logsumexp_WT = model(micro_WT[:, :-1], micro_WT[:, 1:], DTYPES[spec.precision])
        loss = nll_WT.mean()
        objective = loss + spec.optimizer.z_loss * logsumexp_WT.square().mean()
        (objective / len(micro_batches)).backward()
        total += loss.detach() / len(micro_batches)
    torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optimizer.clip_norm, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


class StepClock:
    """Tokens per second of the steps, the first of a process (which compile) left out."""

    WARM_STEPS = 3

    def __init__(self) -> None:
        self.steps, self.tokens, self.start, self.stop = 0, 0, 0.0, 0.0

    def tick(self, tokens: int) -> None:
        self.steps += 1
        self.stop = time.perf_counter()
        if self.steps <= self.WARM_STEPS:
            self.start = self.stop
        else:
            self.tokens += tokens

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / (self.stop - self.start) if self.tokens else None


def _record(
    spec: RunSpec,
    corpus: Corpus,
    test_loss: HeldOutLoss | None,
    error: str | None,
    tokens_per_s: float | None,
    wall_s: float,
    device: str,
) -> RunRecord:
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
