"""One run: learns, repeats to the bit, shares its trunk, refuses a second epoch, and ends on a diverged loss."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sixnd.models.transformer import Transformer
from sixnd.train import loop
from sixnd.train.batches import BatchStream
from sixnd.train.checkpoint import step_of
from sixnd.train.corpus.build import build_from_sources
from sixnd.train.corpus.prepare import is_test
from sixnd.train.corpus.sources import Document
from sixnd.train.corpus.store import Corpus, unique_tokens
from sixnd.train.device import micro_batch_rows
from sixnd.train.divergence import MARGIN, PATIENCE, Diverged, LossWatch
from sixnd.train.evaluate import HeldOutWindows, evaluate
from sixnd.train.loop import RunError, train, train_step
from sixnd.train.machine import has_compiler
from sixnd.train.native.library import library
from sixnd.train.optimizer import build_optimizer
from sixnd.train.progress import Progress, TqdmListener
from sixnd.train.spec import RunSpec

from tests.conftest import make_documents, make_source, tiny_spec
from tests.train.stops import quiet, result, stop_before_step

pytestmark = pytest.mark.usefixtures("curve_of_tiny_runs")


def test_a_run_learns_and_its_record_is_complete(run_spec: RunSpec, corpus: Corpus, corpora: Path) -> None:
    record = train(run_spec, corpora=corpora, say=quiet)
    assert record.state == "done" and record.key == run_spec.key
    assert record.test_loss is not None and record.test_loss_se is not None and record.bits_per_byte is not None
    assert record.test_loss < math.log(300) - 1
    assert 0 < record.test_loss_se < 0.2
    test = corpus.manifest.test
    nats = record.test_loss * (test.tokens - test.documents)
    assert record.bits_per_byte == pytest.approx(nats / math.log(2) / test.bytes)
    assert record.C_6nd == 6 * record.N_total * record.D
    assert record.loss_by_source == {"made-up": pytest.approx(record.test_loss)}
    assert RunSpec.model_validate_json(record.spec) == run_spec


def test_a_run_repeats_to_the_bit(run_spec: RunSpec, corpora: Path) -> None:
    first, second = (train(run_spec, corpora=corpora, say=quiet) for _ in range(2))
    assert result(first) == result(second)
    other = train(run_spec.model_copy(update={"seed": 1}), corpora=corpora, say=quiet)
    assert other.test_loss != first.test_loss


def test_a_branch_equals_the_straight_run(run_spec: RunSpec, corpora: Path, tmp_path: Path) -> None:
    """The longer run starts from the shorter one's branch point, and ends where it would have ended alone."""
    longer = run_spec.model_copy(update={"tokens": 2 * run_spec.tokens})
    assert longer.trunk_key == run_spec.trunk_key and longer.key != run_spec.key
    straight = train(longer, corpora=corpora, say=quiet)
    train(run_spec, corpora=corpora, checkpoints=tmp_path, say=quiet)
    seen: list[Progress] = []
    branched = train(longer, corpora=corpora, checkpoints=tmp_path, listener=seen.append, say=quiet)
    assert seen[0].tokens > run_spec.branch_step * run_spec.batch_tokens
    assert result(branched) == result(straight)


def test_a_second_epoch_is_refused_by_name(run_spec: RunSpec, corpus: Corpus, corpora: Path) -> None:
    most = unique_tokens(len(corpus.train), run_spec.model.context) // run_spec.batch_tokens * run_spec.batch_tokens
    beyond = run_spec.model_copy(update={"tokens": most + run_spec.batch_tokens})
    with pytest.raises(RunError, match=f"D = {beyond.tokens:,} is beyond one epoch") as error:
        train(beyond, corpora=corpora, say=quiet)
    assert "\n" not in str(error.value)


def test_another_vocabulary_is_refused(run_spec: RunSpec, corpora: Path) -> None:
    wrong = run_spec.model_copy(update={"model": run_spec.model.model_copy(update={"vocab_size": 299})})
    with pytest.raises(RunError, match="vocabulary 299"):
        train(wrong, corpora=corpora, say=quiet)


def test_an_exploding_learning_rate_ends_the_run_and_is_recorded(run_spec: RunSpec, corpora: Path) -> None:
    hot = run_spec.optimizer.model_copy(update={"lr": 1e30})
    record = train(run_spec.model_copy(update={"optimizer": hot}), corpora=corpora, say=quiet)
    assert record.state == "diverged" and record.test_loss is None
    # The warm-up takes two steps: the first one trains at half the peak, and the second meets what it left.
    assert re.fullmatch(
        r"(loss|gradient) is not finite at step 2 of 40, learning rate 1e\+30; last finite loss 5\.\d+",
        record.error or "",
    )
    json.loads(record.model_dump_json())


def poison_gradient(monkeypatch: pytest.MonkeyPatch, spec: RunSpec, at: int) -> None:
    """Makes one number of the gradient nan in step `at`, counted from 1, its loss being finite."""
    clip, lr = torch.nn.utils.clip_grad_norm_, loop.learning_rate
    now = 0

    def learning_rate(spec: RunSpec, step: int) -> float:
        nonlocal now
        now = step + 1
        return lr(spec, step)

    def poisoned(parameters: Iterator[torch.nn.Parameter], *limits: float, **options: bool) -> torch.Tensor:
        listed = list(parameters)
        if now == at:
            assert listed[-1].grad is not None
            listed[-1].grad[0] = math.nan
        return clip(listed, *limits, **options)

    monkeypatch.setattr(loop, "learning_rate", learning_rate)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poisoned)


def test_a_nan_gradient_ends_the_run_at_its_own_step_resumed_or_not(
    run_spec: RunSpec, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 24 lies between two looks at the loss; the run that is resumed looks at other steps than the straight one."""
    poison_gradient(monkeypatch, run_spec, at=24)
    weights = tmp_path / "weights.pt"
    straight = train(run_spec, corpora=corpora, weights=weights, say=quiet)
    assert straight.error is not None and straight.error.startswith("gradient is not finite at step 24 of 40")
    assert "learning rate 0.01;" in straight.error and "last finite loss" in straight.error
    assert not weights.exists()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before_step(patch, run_spec, 22)
        train(run_spec, corpora=corpora, checkpoints=tmp_path, checkpoint_seconds=0, say=quiet)
    resumed = train(run_spec, corpora=corpora, checkpoints=tmp_path, checkpoint_seconds=0, say=quiet)
    assert result(resumed) == result(straight)
    assert max(step_of(path) for path in tmp_path.rglob("*.pt")) == 23, "what has diverged is never saved"


def test_a_loss_above_its_start_for_long_is_divergence(run_spec: RunSpec) -> None:
    """Warm-up does not count, one lower loss starts the count again, and neither looks nor a resume change the step."""
    ceiling = max(6.0, math.log(300)) + MARGIN
    high, low = ceiling + 0.01, ceiling - 0.01
    losses = [6.0, high] + 150 * [high] + [low] + 300 * [high]
    for look_every in (1, 7, 1000):
        watch = LossWatch.of(run_spec)
        with pytest.raises(Diverged, match=f"above its start .6.00. for {PATIENCE} steps") as end:
            for step, loss in enumerate(losses, 1):
                watch.note(step, torch.tensor(loss), torch.tensor(1.0))
                if step % look_every == 0 or step == len(losses):
                    watch.look()
                    saved, watch = watch.state_dict(), LossWatch.of(run_spec)
                    watch.load_state_dict(saved)
        assert end.value.step == 2 + 150 + 1 + PATIENCE
        assert end.value.last_finite == pytest.approx(high)


def test_high_losses_of_the_warm_up_do_not_count(run_spec: RunSpec) -> None:
    long = run_spec.schedule.model_copy(update={"warmup_tokens": 300 * run_spec.batch_tokens})
    watch = LossWatch.of(run_spec.model_copy(update={"schedule": long}))
    for step in range(1, 300):
        watch.note(step, torch.tensor(6.0 if step == 1 else 9.0), torch.tensor(1.0))
    assert watch.look() == 9.0 and watch.memory.high_steps == 0


def test_batches_are_a_function_of_seed_and_offset(corpus: Corpus) -> None:
    stream = BatchStream(corpus.train, 16, seed=3)
    whole = stream.batch(0, 64 * 16)
    assert torch.equal(whole, torch.cat([stream.batch(offset, 16 * 16) for offset in range(0, 64 * 16, 16 * 16)]))
    assert torch.equal(whole, BatchStream(corpus.train, 16, seed=3).batch(0, 64 * 16))
    assert not torch.equal(whole, BatchStream(corpus.train, 16, seed=4).batch(0, 64 * 16))
    assert torch.equal(whole[:, 1:-1], whole[:, :-1][:, 1:])


def test_an_epoch_sees_every_window_once_and_never_wraps(corpus: Corpus) -> None:
    stream = BatchStream(corpus.train, 16, seed=0)
    assert sorted(stream.order.tolist()) == list(range(len(stream.order)))
    end = len(stream.order) * 16
    assert end == unique_tokens(len(corpus.train), 16)
    assert stream.batch(end - 16, 16).shape == (1, 17)
    with pytest.raises(IndexError, match="beyond one epoch"):
        stream.batch(end, 16)


def test_micro_batches_do_not_change_the_step(run_spec: RunSpec, corpus: Corpus) -> None:
    spec = run_spec.model_copy(update={"precision": "fp32"})
    weights = []
    for rows in (4, 2, 1):
        model = Transformer(spec.model)
        model.initialize(0)
        optimizer = build_optimizer(model, spec.optimizer)
        windows = BatchStream(corpus.train, 16, seed=0).batch(0, 64)
        train_step(model, optimizer, windows, 1e-3, spec, rows)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(weights[0], weights[2], atol=2e-5, rtol=1e-3)
    wide = spec.model.model_copy(update={"context": 256})
    assert micro_batch_rows(wide, 64 * 256, torch.device("cpu"), "fp32") == 8
    assert micro_batch_rows(wide, 9 * 256, torch.device("cpu"), "fp32") == 3


def test_evaluation_is_a_full_pass_over_whole_documents(run_spec: RunSpec, corpus: Corpus) -> None:
    model = Transformer(run_spec.model)
    model.initialize(0)
    windows = HeldOutWindows.of(corpus, 16)
    loss = evaluate(model, corpus, windows, rows=7, dtype=torch.float32)
    lengths = np.diff(corpus.test_documents.offsets)
    assert (loss.tokens == lengths - 1).all()
    assert loss.mean == pytest.approx(evaluate(model, corpus, windows, rows=3, dtype=torch.float32).mean, rel=1e-6)
    first = corpus.test.windows(np.zeros(1, np.int64), int(lengths[0]))[0].astype(np.int64)
    by_hand = 0.0
    for start in range(0, len(first) - 1, 16):
        piece = torch.from_numpy(first[start : start + 17]).unsqueeze(0)
        by_hand += model(piece[:, :-1], piece[:, 1:], torch.float32)[1].item() * (piece.shape[1] - 1)
    assert loss.nats[0] == pytest.approx(by_hand, rel=1e-5)


def test_standard_error_covers_documents(run_spec: RunSpec, corpus: Corpus) -> None:
    """Against a bootstrap of whole documents."""
    model = Transformer(run_spec.model)
    model.initialize(0)
    loss = evaluate(model, corpus, HeldOutWindows.of(corpus, 16), rows=8, dtype=torch.float32)
    rng = np.random.default_rng(0)
    picks = rng.integers(len(loss.nats), size=(4000, len(loss.nats)))
    spread = (loss.nats[picks].sum(1) / loss.tokens[picks].sum(1)).std()
    assert loss.standard_error == pytest.approx(spread, rel=0.25)


def test_the_progress_bar_shows_loss_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with TqdmListener("run") as bar:
        bar(Progress(500, 1000, 3.25, 1234.0))
        bar(Progress(1000, 1000, 3.125, 1234.0))
    shown = capsys.readouterr().err
    assert "loss=3.125" in shown and "tok/s" in shown and "<" in shown


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("head_dim", [32, 8])  # our own C++ takes the first, torch.compile the second
def test_the_compiled_run_agrees_with_the_eager_one(
    head_dim: int, run_spec: RunSpec, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = run_spec.model.model_copy(update={"head_dim": head_dim})
    spec = run_spec.model_copy(update={"precision": "fp32", "model": model})
    eager = train(spec, corpora=corpora, say=quiet)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    compiled = train(spec, corpora=corpora, say=quiet)
    assert "eager" in eager.device and "compiled" in compiled.device
    assert compiled.test_loss == pytest.approx(eager.test_loss, rel=1e-4)


def test_without_a_compiler_it_runs_eagerly_and_says_so(
    run_spec: RunSpec, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    monkeypatch.setenv("CXX", "no-such-compiler")
    said: list[str] = []
    record = train(run_spec, corpora=corpora, say=said.append)
    assert record.state == "done" and "eager" in record.device
    assert any("no C++ compiler" in line for line in said)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("head_dim", [32, 8])
def test_with_a_compiler_that_fails_it_runs_eagerly_and_says_so(
    head_dim: int, run_spec: RunSpec, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    said: list[str] = []
    try:
        model = run_spec.model.model_copy(update={"head_dim": head_dim})
        record = train(run_spec.model_copy(update={"model": model}), corpora=corpora, say=said.append)
    finally:
        library.cache_clear()
    assert record.state == "done" and "eager" in record.device
    assert sum("the C++ compiler fails" in line for line in said) == 1


def test_contaminated_held_out_text_shows_in_the_loss(tmp_path: Path, run_spec: RunSpec) -> None:
    """A third of the held-out documents stand, cut short, in the training text twenty times over."""
    documents = make_documents(120)
    held_out = [document for document in documents if is_test(document.text, 0.2)]
    halves = [d.text[: len(d.text) // 2] + " tail" * i for d in held_out[::3] for i in range(20)]
    pasted = [Document("made-up", f"pasted-{i}", text) for i, text in enumerate(halves) if not is_test(text, 0.2)]
    sources, root = [make_source([*documents, *pasted])], tmp_path / "corpora"
    corpus = build_from_sources(tiny_spec(near=False), sources, root, lambda _: None, 1)
    overlaps = corpus.test_documents.overlap
    assert (overlaps >= 0.2).sum() >= len(held_out) // 3 > 0 and (overlaps == 0).any()
    spec = run_spec.model_copy(update={"corpus": corpus.hash, "tokens": len(corpus.train) // 64 * 64 - 64})
    record = train(spec, corpora=root, say=lambda _: None)
    assert record.test_loss_clean is not None and record.test_loss_dirty is not None
    assert record.test_loss_dirty < record.test_loss < record.test_loss_clean
    dropped = build_from_sources(
        tiny_spec(near=False, contamination={"action": "drop"}), sources, root, lambda _: None, 1
    )
    assert dropped.manifest.test.documents == (overlaps < 0.2).sum()
    assert max(dropped.test_documents.overlap) < 0.2
    (source,) = dropped.manifest.sources
    assert sum(source.steps[-1].dropped.values()) == (overlaps >= 0.2).sum()
