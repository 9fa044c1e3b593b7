"""Text from a model: the likeliest at temperature 0, else drawn as the softmax says, the same for the same seed."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.transformer import Transformer
from sixnd.train.corpus.store import Corpus
from sixnd.train.sample import SampleError, Sampling, draw, sample_text, sample_tokens
from sixnd.train.spec import RunSpec
from sixnd.train.trained import load_trained

from tests.train.test_export import train_into

END = 0


@pytest.fixture(scope="module")
def model() -> Transformer:
    built = Transformer(ModelConfig.from_shape(1, 32, 300, 16))
    built.initialize(3)
    return built


def said(model: Transformer, sampling: Sampling, opening: tuple[int, ...] = (END, 5, 9)) -> list[int]:
    return list(sample_tokens(model, opening, -1, sampling))


def test_temperature_zero_is_the_argmax_over_a_sliding_window(model: Transformer) -> None:
    seen = [END, 5, 9]
    for token in said(model, Sampling(tokens=40, temperature=0)):
        assert token == int(model.logits(torch.tensor([seen[-16:]]))[0, -1].argmax())
        seen.append(token)
    assert len(seen) == 43, "the text goes on past the context of 16"


def test_a_seed_repeats_and_another_differs(model: Transformer) -> None:
    first, same, other = (said(model, Sampling(tokens=20, temperature=1.0, seed=seed)) for seed in (1, 1, 2))
    assert first == same != other
    assert said(model, Sampling(tokens=20, top_k=1, seed=5)) == said(model, Sampling(tokens=20, temperature=0))


def test_draws_follow_the_softmax_of_the_top_k() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, -1.0, 2.5])
    generator, sampling = torch.Generator().manual_seed(0), Sampling(temperature=0.7, top_k=3)
    n = 4000
    counts = Counter(draw(logits, sampling, generator) for _ in range(n))
    assert set(counts) == {1, 2, 4}
    weights = {token: math.exp(float(logits[token]) / 0.7) for token in counts}
    for token, count in counts.items():
        p = weights[token] / sum(weights.values())
        assert abs(count / n - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert draw(logits, Sampling(temperature=1e-300), generator) == 1
    assert draw(logits, Sampling(top_k=10**6), generator) in range(5)


def test_it_stops_at_end_of_text_and_does_not_give_it_out(model: Transformer) -> None:
    greedy = said(model, Sampling(tokens=30, temperature=0))
    end = greedy[-1]
    stopped = list(sample_tokens(model, (END, 5, 9), end, Sampling(tokens=30, temperature=0)))
    assert stopped == greedy[: greedy.index(end)]


def test_the_prompt_opens_a_document(run_spec: RunSpec, corpus: Corpus, tmp_path: Path) -> None:
    trained = load_trained(train_into(tmp_path / "run", run_spec, corpus))
    sampling = Sampling(tokens=30, seed=4)
    text = sample_text(trained, "abc", sampling)
    end = corpus.manifest.end_of_text_id
    opening = (end, *corpus.tokenizer().encode("abc", add_special_tokens=False).ids)
    assert text == corpus.tokenizer().decode(list(sample_tokens(trained.model, opening, end, sampling))) != ""
    assert text == sample_text(trained, "abc", sampling)
    assert sample_text(trained, "", sampling)
    with pytest.raises(SampleError, match="UTF-8"):
        sample_text(trained, "\udcff", sampling)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("seed", -1),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(setting: str, value: float) -> None:
    with pytest.raises(SampleError, match=f"^{setting} = ") as error:
        Sampling(**{setting: value})  # type: ignore[arg-type]
    assert "\n" not in str(error.value) and error.value.exit_code == 2
