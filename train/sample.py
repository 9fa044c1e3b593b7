"""Text from a trained model, one token at a time.

Shape suffixes: B batch (1), T time (tokens), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.transformer import Transformer
from .trained import Trained


class SampleError(ValueError):
    """A setting that text cannot be sampled with; its message is one line."""

    exit_code = 2


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: from the `top_k` likeliest, their logits divided by `temperature`; 0 takes the likeliest.

    Raises:
        SampleError: a value outside its range.
    """

    tokens: int = 100  # at most
    temperature: float = 0.8
    top_k: int = 50  # a larger one than the vocabulary means all of it
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise SampleError(f"tokens = {self.tokens}: at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise SampleError(f"temperature = {self.temperature}: 0 (the likeliest token) or above")
        if self.top_k < 1:
            raise SampleError(f"top_k = {self.top_k}: at least 1")
        if not 0 <= self.seed < 2**63:
            raise SampleError(f"seed = {self.seed}: a whole number from 0")


def sample_text(trained: Trained, prompt: str, sampling: Sampling) -> str:
    """What the model says after `prompt`, which opens a document; the prompt is not repeated.

    The same arguments give the same text.

    Raises:
        SampleError: the prompt is not text.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError:  # how Python holds bytes of a command line that are no UTF-8
        raise SampleError("prompt: not valid UTF-8") from None
    opening = [trained.receipt.end_of_text_id, *trained.tokenizer.encode(prompt, add_special_tokens=False).ids]
    tokens = list(sample_tokens(trained.model, opening, trained.receipt.end_of_text_id, sampling))
    return str(trained.tokenizer.decode(tokens))


@torch.no_grad()
def sample_tokens(model: Transformer, opening: Sequence[int], end_of_text: int, sampling: Sampling) -> Iterator[int]:
    """Tokens after `opening` until `end_of_text`, which is not given out, or `sampling.tokens` of them.

    The model sees the last `context` tokens. They are read anew for each token: a model of this size needs no cache.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    seen = list(opening)
    for _ in range(sampling.tokens):
        window_BT = torch.tensor([seen[-model.config.context :]], device=model.embedding.device)
        token = draw(model.logits(window_BT)[0, -1], sampling, generator)
        if token == end_of_text:
            return
        seen.append(token)
        yield token


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token; drawn on the CPU, so that a seed means the same on every device."""
    logits_V = logits_V.double().cpu()
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    best, tokens = logits_V.topk(min(sampling.top_k, len(logits_V)))
    # The likeliest is brought to 0 first: a tiny temperature must not overflow.
    probabilities = ((best - best[0]) / sampling.temperature).softmax(-1)
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])
