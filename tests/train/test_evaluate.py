"""One pass: loss, accuracy and exact match by document; the curve's places; losses on disk; paired comparison."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sixnd.models.transformer import Transformer, score_head
from sixnd.train.batches import BatchStream
from sixnd.train.corpus.store import Corpus
from sixnd.train.curve import CURVE_POSITIONS, curve_steps, evaluation_steps
from sixnd.train.documents import DocumentLossError, load_document_losses, paired_difference, save_document_losses
from sixnd.train.evaluate import (
    EXACT_MATCH_TOKENS,
    HeldOutLoss,
    HeldOutWindows,
    evaluate,
    ratio_standard_error,
    runs,
    score,
)
from sixnd.train.machine import has_compiler
from sixnd.train.optimizer import build_optimizer
from sixnd.train.record import CurvePoint
from sixnd.train.spec import RunSpec

from tests.conftest import BATCH, CONTEXT, VOCAB


@pytest.fixture(scope="module")
def model(run_spec: RunSpec, corpus: Corpus) -> Transformer:
    """Trained for some steps, so that it gets a few tokens in a row right."""
    model = Transformer(run_spec.model)
    model.initialize(0)
    optimizer = build_optimizer(model, run_spec.optimizer)
    for step in range(60):
        windows_WT = BatchStream(corpus.train, CONTEXT, seed=0).batch(step * BATCH, BATCH)
        model(windows_WT[:, :-1], windows_WT[:, 1:], torch.float32)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def windows(corpus: Corpus) -> HeldOutWindows:
    return HeldOutWindows.of(corpus, CONTEXT)


@pytest.fixture(scope="module")
def loss(model: Transformer, corpus: Corpus, windows: HeldOutWindows) -> HeldOutLoss:
    return evaluate(model, corpus, windows, rows=7, dtype=torch.float32)


def made_up_loss(nats: list[float], tokens: list[int]) -> HeldOutLoss:
    n = len(nats)
    return HeldOutLoss(
        nats=np.array(nats),
        tokens=np.array(tokens),
        bytes=np.full(n, 100),
        source=np.zeros(n, np.int64),
        overlap=np.full(n, math.nan),
        matches=np.zeros((n, len(EXACT_MATCH_TOKENS)), np.int64),
        positions=np.ones((n, len(EXACT_MATCH_TOKENS)), np.int64),
    )


@pytest.fixture(scope="module")
def correct(model: Transformer, windows: HeldOutWindows) -> list[list[bool]]:
    """By window, whether each real token is the argmax."""
    best_WT = model.logits(windows.inputs_WT).argmax(-1)
    lengths = (windows.targets_WT >= 0).sum(1).tolist()
    return [row[:length] for row, length in zip((best_WT == windows.targets_WT).tolist(), lengths, strict=True)]


def matches_by_hand(correct: list[list[bool]], k: int) -> list[bool]:
    """Of every position that has k tokens ahead in its window, whether these are each the argmax."""
    return [all(row[start : start + k]) for row in correct for start in range(len(row) - k + 1)]


@pytest.mark.parametrize("k", EXACT_MATCH_TOKENS)
def test_exact_match_is_that_of_k_teacher_forced_tokens(correct: list[list[bool]], loss: HeldOutLoss, k: int) -> None:
    matches, i = matches_by_hand(correct, k), EXACT_MATCH_TOKENS.index(k)
    assert (loss.matches[:, i].sum(), loss.positions[:, i].sum()) == (sum(matches), len(matches))
    assert loss.exact_match[k] == sum(matches) / len(matches)


def test_accuracy_is_exact_match_of_one_and_longer_matches_are_rarer(loss: HeldOutLoss) -> None:
    assert (loss.positions[:, 0] == loss.tokens).all()
    assert 0 < loss.accuracy == loss.exact_match[1] < 1
    shares = list(loss.exact_match.values())
    assert shares == sorted(shares, reverse=True)
    assert loss.exact_match_se[1] == pytest.approx(ratio_standard_error(loss.matches[:, 0], loss.tokens))


def test_exact_match_equals_greedy_decoding(
    model: Transformer, windows: HeldOutWindows, correct: list[list[bool]]
) -> None:
    """Decoding for real from every position of a few windows reproduces the next two tokens just as often."""
    reproduced = []
    for inputs_T, targets_T in zip(windows.inputs_WT[:4], windows.targets_WT[:4], strict=True):
        for start in range(CONTEXT - 1):
            text = inputs_T[: start + 1]
            for _ in range(2):
                text = torch.cat((text, model.logits(text[None])[0, -1].argmax(-1, keepdim=True)))
            reproduced.append(torch.equal(text[-2:], targets_T[start : start + 2]))
    assert reproduced == matches_by_hand(correct[:4], 2) and any(reproduced)


def test_runs_of_flags() -> None:
    flags_WT = torch.tensor([[1, 1, 1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [0] * 8], dtype=torch.bool)
    assert runs(flags_WT).tolist() == [[5, 3, 0, 0, 0], [8, 7, 5, 1, 0], [0, 0, 0, 0, 0]]


def test_the_first_of_equal_logits_is_the_argmax(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_WTV = torch.zeros(2, 3, VOCAB)
    logits_WTV[..., 5] = logits_WTV[..., 9] = 1.0
    monkeypatch.setattr(model.head, "logits", lambda x_WTD, _: logits_WTV[: len(x_WTD)])
    targets_WT = torch.tensor([[5, 9, 0], [9, 5, 5]])
    _, correct_WT = score(model, torch.zeros(2, 3, dtype=torch.int64), targets_WT, torch.float32)
    assert correct_WT.tolist() == [[True, False, False], [False, True, True]]


@pytest.mark.parametrize("fits", [0, 1, 2, 3, 5, 100])
def test_the_score_is_the_models_loss_whatever_the_pieces(
    model: Transformer, windows: HeldOutWindows, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    inputs_WT, targets_WT = windows.inputs_WT[:6], windows.targets_WT[:6].clamp(min=0)
    monkeypatch.setattr("sixnd.train.evaluate.LOGITS_AT_ONCE", fits * CONTEXT * VOCAB)
    nll_WT, correct_WT = score(model, inputs_WT, targets_WT, torch.float32)
    logits_WTV = model.logits(inputs_WT)
    torch.testing.assert_close(nll_WT, F.cross_entropy(logits_WTV.transpose(1, 2), targets_WT, reduction="none"))
    assert torch.equal(correct_WT, model.logits(inputs_WT).argmax(-1) == targets_WT)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")
def test_the_compiled_score_agrees_with_the_eager_one(
    model: Transformer, windows: HeldOutWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    inputs_WT, targets_WT = windows.inputs_WT[:6], windows.targets_WT[:6].clamp(min=0)
    eager_nll_WT, eager_correct_WT = score(model, inputs_WT, targets_WT, torch.bfloat16)
    monkeypatch.setattr(model.head, "score", torch.compile(score_head, dynamic=False))  # alone: blocks take longer
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    nll_WT, correct_WT = score(model, inputs_WT, targets_WT, torch.bfloat16)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    torch.testing.assert_close(nll_WT, eager_nll_WT, rtol=1e-5, atol=1e-5)
    assert torch.equal(correct_WT, eager_correct_WT)


def test_steps_of_a_curve_do_not_depend_on_d() -> None:
    short, long = evaluation_steps(300, 10, 4), evaluation_steps(5000, 10, 4)
    assert short == (10, 18, 32, 56, 100, 178, 300)
    assert long[: len(short) - 1] == short[:-1] and long[-1] == 5000
    assert [b / a for a, b in pairwise(long[:-1])] == pytest.approx([10**0.25] * (len(long) - 2), rel=0.05)
    assert evaluation_steps(4, 10, 4) == (4,)
    assert evaluation_steps(4, 1, 10) == (1, 2, 3, 4)


@pytest.mark.parametrize("batch_tokens", [2048, 8192, 65_536])
def test_the_curve_of_half_a_million_tokens_costs_at_most_a_twentieth(batch_tokens: int) -> None:
    steps = curve_steps(500_000 // batch_tokens, batch_tokens)
    assert len(steps) * CURVE_POSITIONS / 2.2 < 0.05 * 500_000  # forward passes run at 2.2 times the speed of training
    assert steps[0] * batch_tokens in (32_768, 65_536)


def test_a_sample_is_fixed_bounded_and_spread(model: Transformer, corpus: Corpus, windows: HeldOutWindows) -> None:
    sample = windows.sample(40 * CONTEXT)
    assert sample.inputs_WT.shape == (40, CONTEXT) and len(set(map(tuple, sample.inputs_WT.tolist()))) == 40
    assert torch.equal(sample.targets_WT, windows.sample(40 * CONTEXT).targets_WT)
    shares = np.bincount(sample.document_W, minlength=len(corpus.test_documents.bytes)) / 40
    whole = np.bincount(windows.document_W) / len(windows.document_W)
    assert np.abs(shares - whole).max() <= 1 / 40
    assert len(windows.sample(10**9).document_W) == len(windows.document_W)
    assert len(windows.sample(1).document_W) == 1
    partial, full = (evaluate(model, corpus, w, 8, torch.float32) for w in (sample, windows))
    assert partial.mean == pytest.approx(full.mean, abs=4 * partial.standard_error)
    assert partial.tokens.sum() == (sample.targets_WT >= 0).sum()


def test_documents_not_looked_at_do_not_count_in_the_error() -> None:
    few, more = made_up_loss([30.0, 50.0], [10, 20]), made_up_loss([30.0, 0.0, 50.0], [10, 0, 20])
    assert few.standard_error == more.standard_error > 0
    alone = made_up_loss([30.0, 0.0], [10, 0])
    assert math.isnan(alone.standard_error)
    assert alone.point(99) == CurvePoint(99, 3.0, None)
    assert json.loads(json.dumps(few.point(99))) == [99, few.mean, few.standard_error]


def test_losses_on_disk_come_back_to_the_bit(tmp_path: Path, loss: HeldOutLoss) -> None:
    path = save_document_losses(tmp_path / "documents", "abc", loss)
    again = load_document_losses(tmp_path / "documents", "abc")
    for field in dataclasses.fields(HeldOutLoss):
        mine, theirs = getattr(loss, field.name), getattr(again, field.name)
        assert np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f"), field.name
    assert again.mean == loss.mean and again.exact_match == loss.exact_match
    assert [p.name for p in path.parent.iterdir()] == ["abc.npz"]
    assert path.stat().st_size < 4000
    before = path.read_bytes()
    save_document_losses(tmp_path / "documents", "abc", loss)
    assert path.read_bytes() == before


def test_missing_and_damaged_losses_are_named(tmp_path: Path, loss: HeldOutLoss) -> None:
    with pytest.raises(DocumentLossError, match=r"gone\.npz: no document losses") as missing:
        load_document_losses(tmp_path, "gone")
    path = save_document_losses(tmp_path, "abc", loss)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole[:60] + b"\xff" + whole[61:]):
        path.write_bytes(broken)
        with pytest.raises(DocumentLossError, match=r"abc\.npz: cannot be read") as damaged:
            load_document_losses(tmp_path, "abc")
        assert "\n" not in str(damaged.value)
    assert missing.value.exit_code == 2


def test_a_paired_difference_cancels_what_documents_share() -> None:
    """Against a bootstrap of whole documents, and against the error of an unpaired difference."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 500, size=200)
    hardness = rng.normal(3, 0.5, size=200)
    losses = [
        made_up_loss(list((hardness + shift + rng.normal(0, 0.05, 200)) * tokens), list(tokens)) for shift in (0.02, 0)
    ]
    a, b = losses
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(a.mean - b.mean)
    picks = rng.integers(200, size=(4000, 200))
    spread = ((a.nats - b.nats)[picks].sum(1) / tokens[picks].sum(1)).std()
    assert difference.se == pytest.approx(spread, rel=0.1)
    assert difference.se < math.hypot(a.standard_error, b.standard_error) / 5
    assert paired_difference(a, a) == (0.0, 0.0)


def test_only_the_same_documents_can_be_paired() -> None:
    with pytest.raises(DocumentLossError, match="same documents"):
        paired_difference(made_up_loss([1.0, 2.0], [5, 6]), made_up_loss([1.0, 2.0], [5, 7]))
    with pytest.raises(DocumentLossError, match="same documents"):
        paired_difference(made_up_loss([1.0, 2.0], [5, 6]), made_up_loss([1.0], [5]))
