"""What a model is: its shape, frozen, and how many parameters that shape has."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """A decoder-only, Llama-shaped transformer (Touvron et al. 2023, arXiv 2302.13971), with tied embeddings.

    Embeddings are tied so that every parameter of the table also multiplies: N_total is then the number that
    enters C = 6·N·D (the choice of N alone moves the frontier exponent, Pearce & Song 2024, arXiv 2406.12907).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_layers: int = Field(ge=1, description="transformer blocks")
    d_model: int = Field(ge=8, description="width of the residual stream")
    head_dim: int = Field(ge=8, multiple_of=2, description="width of one attention head")
    d_ff: int = Field(ge=8, description="hidden width of the SwiGLU")
    vocab_size: int = Field(ge=2, description="tokens, the end-of-text token included")
    context: int = Field(default=256, ge=8, description="tokens a model sees at once")
    qk_norm: bool = Field(default=False, description="RMSNorm on queries and keys")
    rope_theta: float = Field(default=10_000.0, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)

    @model_validator(mode="after")
    def _heads_fill_the_width(self) -> Self:
        if self.d_model % self.head_dim:
            raise ValueError(f"d_model = {self.d_model} is not a multiple of head_dim = {self.head_dim}")
        return self

    @classmethod
    def from_shape(cls, n_layers: int, d_model: int, vocab_size: int, context: int = 256) -> ModelConfig:
        """The project's usual proportions for a depth and a width.

        head_dim is 64 from width 512, below that 32 where it divides the width and 16 elsewhere; d_ff is 8/3 of the width (Shazeer 2020,
        arXiv 2002.05202: SwiGLU at the parameter count of a 4x MLP), rounded to a multiple of 16.
        """
        head_dim = 64 if d_model >= 512 else 32 if d_model % 32 == 0 else 16
        d_ff = max(16, round(d_model * 8 / 3 / 16) * 16)
        return cls(
            n_layers=n_layers, d_model=d_model, head_dim=head_dim, d_ff=d_ff, vocab_size=vocab_size, context=context
        )

    @property
    def n_heads(self) -> int:
        return self.d_model // self.head_dim

    @property
    def n_embedding(self) -> int:
        """Parameters of the (tied) embedding table."""
        return self.vocab_size * self.d_model

    @property
    def n_block_matrices(self) -> int:
        """Parameters of the blocks' matrices: query, key, value, output and the three of the SwiGLU."""
        return self.n_layers * (4 * self.d_model * self.d_model + 3 * self.d_model * self.d_ff)

    @property
    def n_gains(self) -> int:
        """Gains of the RMSNorms: two a block, one before the head, and two of head_dim a block with QK-norm."""
        per_block = 2 * self.d_model + (2 * self.head_dim if self.qk_norm else 0)
        return self.n_layers * per_block + self.d_model

    @property
    def n_non_embedding(self) -> int:
        """N_non_embedding: everything but the embedding table (the N of Kaplan et al. 2020, arXiv 2001.08361)."""
        return self.n_block_matrices + self.n_gains

    @property
    def n_matmul(self) -> int:
        """N_matmul: parameters that enter a matrix product for every token; the tied head counts, gains do not."""
        return self.n_block_matrices + self.n_embedding

    @property
    def n_total(self) -> int:
        """N_total: every parameter, once (the N of Hoffmann et al. 2022, arXiv 2203.15556)."""
        return self.n_non_embedding + self.n_embedding
