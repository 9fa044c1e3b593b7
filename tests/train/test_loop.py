"""One run: learns, repeats to the bit, shares its trunk, refuses a second epoch, and ends on a diverged loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sixnd.models.transformer import Transformer
from sixnd.train.batches import BatchStream
from sixnd.train.checkpoint import checkpoint_path
from sixnd.train.corpus.build import build_from_sources
from sixnd.train.corpus.prepare import is_test
from sixnd.train.corpus.sources import Document
from sixnd.train.corpus.store import Corpus, unique_tokens
from sixnd.train.device import has_compiler, micro_batch_rows
from sixnd.train.evaluate import HeldOutWindows, evaluate
from sixnd.train.loop import RunError, train, train_step
from sixnd.train.optimizer import build_optimizer
from sixnd.train.progress import Progress, TqdmListener
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec

from tests.conftest import make_documents, make_source, tiny_spec

TIMES = {"tokens_per_s", "wall_s", "finished_at"}


def quiet(_: str) -> None: ...


def result(record: RunRecord) -> dict[str, object]:
    return record.model_dump(exclude=TIMES)


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


def test_a_broken_checkpoint_is_passed_over(
    run_spec: RunSpec, corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train(run_spec, corpora=corpora, checkpoints=tmp_path, say=quiet)
    path = checkpoint_path(tmp_path, run_spec.trunk_key, run_spec.branch_step)
    path.write_bytes(path.read_bytes()[:1000])
    again = train(run_spec, corpora=corpora, checkpoints=tmp_path, say=quiet)
    assert result(again) == result(alone)
    assert path.name in capsys.readouterr().out


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


def test_divergence_ends_the_run_and_is_recorded(run_spec: RunSpec, corpora: Path) -> None:
    hot = run_spec.optimizer.model_copy(update={"lr": 1e30})
    record = train(run_spec.model_copy(update={"optimizer": hot}), corpora=corpora, say=quiet)
    assert record.state == "diverged" and record.test_loss is None
    assert record.error is not None and "1e+30" in record.error
    json.loads(record.model_dump_json())


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
    assert micro_batch_rows(64 * 256, 256, torch.device("cpu")) == 8
    assert micro_batch_rows(9 * 256, 256, torch.device("cpu")) == 3


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
        by_hand += model(piece[:, :-1], piece[:, 1:], torch.float32)[0].sum().item()
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
def test_the_compiled_run_agrees_with_the_eager_one(
    run_spec: RunSpec, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = run_spec.model_copy(update={"precision": "fp32"})
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
