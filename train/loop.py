"""One run, from its spec to its record. The training step is `train_step`.

Shape suffixes: W windows (sequences), T time (tokens).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from ..models.transformer import Transformer
from .checkpoint import Checkpoints, TrainState, save_weights
from .corpus.build import open_corpus
from .corpus.store import Corpus, unique_tokens
from .curve import curve_steps
from .device import compile_model, device_name, micro_batch_rows, pick_device
from .divergence import Diverged, LossWatch
from .documents import save_document_losses
from .evaluate import HeldOutWindows, evaluate
from .graph import GraphedStep, open_streams
from .machine import how_trained
from .optimizer import build_optimizer
from .progress import Listener, Progress, StepClock, TqdmListener
from .ranks import ALONE, Ranks
from .record import CurvePoint, RunRecord
from .result import diverged_in_words, record_of
from .spec import RunSpec

LOG_EVERY = 10  # steps between looks at the loss: on a GPU each look waits for the device
CHECKPOINT_SECONDS = 60.0  # of training between periodic checkpoints: what a killed run loses at most
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

Step = Callable[[torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]  # windows and learning rate -> loss, norm


class RunError(ValueError):
    """A run that cannot be trained as asked; its message is one line."""

    exit_code = 2


class Stopped(Exception):
    """The run was asked to stop; its checkpoint holds all that it had done, and `curves` its curve so far, by run key."""

    exit_code = 1

    def __init__(self, message: str, curves: dict[str, tuple[CurvePoint, ...]]) -> None:
        super().__init__(message)
        self.curves = curves


def never() -> bool:
    """A run that nothing stops."""
    return False


def train(
    spec: RunSpec,
    *,
    corpora: Path | None = None,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    weights: Path | None = None,
    documents: Path | None = None,
    deterministic: bool = False,
    listener: Listener | None = None,
    say: Callable[[str], None] = print,
    stop: Callable[[], bool] = never,
    ranks: Ranks = ALONE,
) -> RunRecord:
    """Trains one model for one epoch of `spec.tokens` and evaluates it on the whole of its held-out side.

    The same spec gives the same record and weights, bit for bit on one CPU thread, whether it starts from nothing,
    from a checkpoint that another D of its trunk left, or from its own after it was killed at any step.

    Args:
        spec: the run.
        corpora: folder of built corpora; None for the default one.
        checkpoints: folder of checkpoints, on a disk that all ranks see; None keeps none.
        checkpoint_seconds: training time between periodic checkpoints, in seconds.
        weights: file for the final fp32 weights; a diverged run writes none.
        documents: folder for the losses of the held-out documents, one small file a run.
        deterministic: on CUDA, use kernels that repeat to the bit, at some cost in speed; a CPU's always do.
        listener: told of the progress every few steps; a tqdm bar where none is given.
        say: receives the few lines worth printing.
        stop: asked after every step; once it says yes, a checkpoint is written and the run ends as `Stopped`.
        ranks: this process among those that train the run together; every one of them returns the record.

    Raises:
        Stopped: as `stop` asked.
        RunError: D is beyond the unique tokens of the corpus, the model does not fit its vocabulary, the corpus has
            no such held-out side, or the batch cannot be shared out.
        CorpusError: the corpus is missing or damaged.
    """
    started = time.perf_counter()
    corpus = open_corpus(spec.corpus, corpora)
    check_fits(spec, corpus, ranks.world)
    device = pick_device()
    if device.type == "cuda":
        _repeat_to_the_bit(deterministic)
    model = Transformer(spec.model).to(device)
    model.initialize(spec.seed)
    state = TrainState(model, build_optimizer(model, spec.optimizer), LossWatch.of(spec))
    kept = Checkpoints(checkpoints, spec) if checkpoints else None
    if kept:
        kept.load_newest(state, None if ranks.first else _unheard)
    if not ranks.agree(state.step, device):
        raise RunError(f"{checkpoints}: the ranks found different checkpoints; give a folder that all of them see")
    compiled = compile_model(model, DTYPES[spec.precision], say)
    clock = StepClock()
    test_loss, error = None, None
    try:
        with TqdmListener(f"N {spec.model.n_total:,}") if listener is None else nullcontext(listener) as heard:
            run_steps(spec, corpus, state, heard, clock, kept, checkpoint_seconds, stop, ranks)
        rows = micro_batch_rows(spec.model, spec.batch_tokens, device, spec.precision)
        # On every rank: the others would only wait for the first.
        windows = HeldOutWindows.of(corpus, spec.model.context, spec.held_out)
        test_loss = evaluate(model, corpus, windows, rows, DTYPES[spec.precision])
        if not math.isfinite(test_loss.mean):
            raise Diverged("test loss is not finite", spec.n_steps, state.watch.memory.last_finite)
    except Diverged as end:
        test_loss, error = None, diverged_in_words(end, learning_rate(spec, end.step - 1), spec.n_steps)
    if ranks.first and weights and not error:
        save_weights(weights, model)
    if ranks.first and documents and test_loss:
        save_document_losses(documents, spec.key, test_loss)
    if ranks.first and kept:
        kept.finish()
    processes = f"{ranks.world} x " if ranks.world > 1 else ""
    how = processes + how_trained(device_name(device), compiled, spec.precision)
    curve = curve_of(spec, state)
    return record_of(spec, corpus, test_loss, error, curve, clock.tokens_per_s, time.perf_counter() - started, how)


def check_fits(spec: RunSpec, corpus: Corpus, world: int = 1) -> None:
    """Raises RunError, before anything is trained, where the corpus or `world` ranks cannot serve the run."""
    if spec.model.vocab_size != corpus.vocab_size:
        raise RunError(
            f"model vocabulary {spec.model.vocab_size} is not that of corpus {corpus.hash}: {corpus.vocab_size}"
        )
    if not len(corpus.tokens_of(spec.held_out)):
        raise RunError(
            f"held_out = {spec.held_out!r}: corpus {corpus.hash} has no such side; build one with"
            f" {spec.held_out}_fraction set (corpus.{spec.held_out}_fraction=0.03)"
        )
    most = unique_tokens(len(corpus.train), spec.model.context)
    if spec.tokens > most:
        raise RunError(
            f"D = {spec.tokens:,} is beyond one epoch: corpus {corpus.hash} has {most:,} unique training tokens"
            f" at context {spec.model.context}; no run may see a token twice"
        )
    rows = spec.batch_tokens // spec.model.context
    if rows % world:
        raise RunError(
            f"batch_tokens = {spec.batch_tokens} is {rows} rows of context {spec.model.context}, which {world}"
            " processes cannot share equally; give a number of processes that divides the rows"
        )


def run_steps(
    spec: RunSpec,
    corpus: Corpus,
    state: TrainState,
    listener: Listener,
    clock: StepClock,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop: Callable[[], bool] = never,
    ranks: Ranks = ALONE,
) -> None:
    """Trains `state` from where it stands to the end of the run.

    Raises:
        Stopped: `stop` said so.
        Diverged: see `LossWatch`.
    """
    device = state.model.embedding.device
    stream = open_streams(corpus.train, spec.model.context, [spec.seed], device)
    rows = micro_batch_rows(spec.model, spec.batch_tokens // ranks.world, device, spec.precision)
    step = open_step(spec, state, rows, ranks)
    sample = HeldOutWindows.of(corpus, spec.model.context, spec.held_out).sample()
    points = curve_steps(spec.n_steps, spec.batch_tokens)
    saved_at = time.perf_counter()
    while state.step < spec.n_steps:
        windows_WT = stream.batch(*ranks.share(state.step * spec.batch_tokens, spec.batch_tokens))[0]
        loss, norm = step(windows_WT, learning_rate(spec, state.step))
        state.step += 1
        state.watch.note(state.step, loss, norm)
        clock.tick(spec.batch_tokens)
        if state.step % LOG_EVERY == 0 or state.step in (spec.branch_step, spec.n_steps):
            newest = state.watch.look()
            listener(Progress(state.step * spec.batch_tokens, spec.tokens, newest, clock.tokens_per_s or 0.0))
        if state.step in points:  # before a checkpoint of this step, which must hold it
            with clock.paused():
                state.watch.look()
                loss_there = evaluate(state.model, corpus, sample, rows, DTYPES[spec.precision])
            if not math.isfinite(loss_there.mean):
                raise Diverged("held-out loss is not finite", state.step, state.watch.memory.last_finite)
            state.curve[state.step] = loss_there.point(state.step * spec.batch_tokens)
        stopped = stop() and state.step < spec.n_steps
        due = stopped or state.step == spec.branch_step or time.perf_counter() - saved_at >= checkpoint_seconds
        if checkpoints and ranks.first and due:
            with clock.paused():
                state.watch.look()  # nothing that has diverged is saved
                checkpoints.save(state)
            saved_at = time.perf_counter()
        if stopped:
            message = f"stopped after step {state.step} of {spec.n_steps}, as asked"
            raise Stopped(message, {spec.key: curve_of(spec, state)})


def curve_of(spec: RunSpec, state: TrainState) -> tuple[CurvePoint, ...]:
    """The run's curve so far. A checkpoint of the trunk may hold the last point of a shorter run, which is none of this one."""
    points = curve_steps(spec.n_steps, spec.batch_tokens)
    return tuple(state.curve[step] for step in points if step in state.curve)


def learning_rate(spec: RunSpec, step: int) -> float:
    """Of the step that follows `step` steps."""
    seen, branch = step * spec.batch_tokens, spec.branch_step * spec.batch_tokens
    return spec.optimizer.lr * spec.schedule.multiplier(seen, spec.batch_tokens, spec.tokens, branch)


def open_step(spec: RunSpec, state: TrainState, rows: int, ranks: Ranks) -> Step:
    """`train_step` of a run, as one CUDA graph where one GPU trains it alone."""

    def plain(windows_WT: torch.Tensor, lr: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return train_step(state.model, state.optimizer, windows_WT, lr, spec, rows, ranks)

    device = state.model.embedding.device
    if device.type != "cuda" or ranks.world > 1:
        return plain
    peak = spec.optimizer.lr
    graphed = GraphedStep(plain, torch.tensor(peak, device=device), state.optimizer)
    return lambda windows_WT, lr: graphed(windows_WT, lr / peak)


def train_step(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    windows_WT: torch.Tensor,
    lr: float | torch.Tensor,
    spec: RunSpec,
    rows: int,
    ranks: Ranks = ALONE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step on the mean loss of `windows_WT`, (W, context + 1), `rows` windows at a time.

    Where several ranks train, `windows_WT` is this one's share of the batch and the gradient is that of all of it.

    Returns the batch's mean loss in nats per token, without z-loss, and the gradient's norm before it was clipped:
    scalars on the device.
    """
    micro_batches = windows_WT.to(model.embedding.device, non_blocking=True).split(rows)
    total = torch.zeros((), device=model.embedding.device)
    for micro_WT in micro_batches:
        objective, loss = model(micro_WT[:, :-1], micro_WT[:, 1:], DTYPES[spec.precision], spec.optimizer.z_loss)
        (objective / len(micro_batches)).backward()
        total += loss / len(micro_batches)
    weights = list(model.parameters())
    ranks.average([total, *(p.grad for p in weights if p.grad is not None)])
    norm = torch.nn.utils.clip_grad_norm_(weights, spec.optimizer.clip_norm, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def _repeat_to_the_bit(wanted: bool) -> None:
    """For the whole process; must come before its first matrix product, when cuBLAS reads its variable."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)


def _unheard(_: str) -> None: ...
