"""A sweep as a TOML file: the grid, the corpus and the training settings, checked all at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..train.corpus.spec import TABLES, CorpusSpec
from .toml import SpecError, merge, read_toml, validate

SWEEPS, CORPORA = "sixnd.sweeps.presets", "sixnd.train.corpus.presets"
SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_count(value: object) -> object:
    """'442k', '0.5M', 4e6 and 4_000_000 alike, as a whole number."""
    if isinstance(value, str):
        number, unit = (value[:-1], SUFFIXES[value[-1]]) if value[-1:] in SUFFIXES else (value, 1)
        try:
            value = float(number.replace("_", "")) * unit
        except ValueError:
            raise ValueError(f"{value!r} is not a count such as 500000, 5e5, '442k', '0.5M' or '1B'") from None
    if isinstance(value, float) and not (abs(value) < 1e18 and round(value) == value):
        raise ValueError(f"{value!r} is not a whole number")
    return round(value) if isinstance(value, float) else value


def count_option(option: str, text: str | None) -> int:
    """A count that was given on the command line.

    Raises:
        SpecError: it is none; the line names the option.
    """
    try:
        return int(str(parse_count(text)))
    except ValueError as error:
        raise SpecError(f"{option}: {error}") from None


Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
Auto = Literal["auto"]
__all__ = ["SpecError", "SweepSpec", "TrainSettings", "count_option", "load_corpus", "load_sweep", "parse_count"]


class TrainSettings(BaseModel):
    """How each run of the sweep is trained; `auto` values follow the run's N and the grid's smallest D."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int = Field(default=256, ge=8)
    batch_tokens: Count = 2048
    lr: Annotated[float, Field(gt=0, lt=1)] | Auto = "auto"
    optimizer: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["power", "cosine"] = Field(
        default="power", description="cosine: matched to each D, no shared trunk"
    )
    p: float = Field(default=0.0, ge=0, le=1, description="of the power law: 0 constant, 0.5 inverse square root")
    warmup_tokens: Annotated[int, BeforeValidator(parse_count), Field(ge=0)] | Auto = "auto"
    cooldown: float = Field(default=0.2, ge=0, le=1, description="share of D; of the power law only")
    cooldown_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    clip_norm: float = Field(default=1.0, gt=0)
    z_loss: float = Field(default=1e-5, ge=0)
    qk_norm: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"

    @model_validator(mode="after")
    def _cosine_has_no_cooldown(self) -> Self:
        if self.schedule == "cosine" and (given := {"p", "cooldown", "cooldown_shape"} & self.model_fields_set):
            raise ValueError(f"schedule = 'cosine' takes no {', '.join(sorted(given))}")
        return self


class SweepSpec(BaseModel):
    """A grid of models by token counts by seeds, each cell one run of one epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    tokens: list[Count] = Field(min_length=1, description="D of each column, cut down to whole batches")
    shapes: list[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=16)]]] = Field(
        default=[], description="[n_layers, d_model] of each row"
    )
    params: list[Count] = Field(default=[], description="or the non-embedding N of each row: nearest shapes are taken")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    workers: int | None = Field(default=None, ge=1, description="processes of one thread; by default one a core or GPU")
    corpus: CorpusSpec
    train: TrainSettings = TrainSettings()

    @model_validator(mode="after")
    def _one_way_to_name_rows(self) -> Self:
        if bool(self.shapes) == bool(self.params):
            raise ValueError("give either shapes = [[n_layers, d_model], ...] or params = ['25k', ...]")
        for key in ("tokens", "shapes", "params", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice")
        return self

    def settings(self) -> dict[str, Any]:
        """Everything that every run shares: all but the grid, the name and the number of workers."""
        return self.model_dump(mode="json", exclude={"name", "tokens", "shapes", "params", "seeds", "workers"})


def load_sweep(source: str, overrides: tuple[str, ...] = ()) -> SweepSpec:
    """Reads a TOML file (or a preset's name), merges `key=value` overrides, and validates once.

    `corpus = "NAME"` stands for the corpus spec of that name or file; without the key it is the demo's.

    Raises:
        SpecError: one line for each thing that is wrong, naming file and key.
    """
    document = read_toml(source, SWEEPS)
    document.setdefault("corpus", "demo")
    _expand(document)
    for override in overrides:
        merge(document, override)
        _expand(document)
    return validate(SweepSpec, document, source, {**TABLES, "train": TrainSettings})


def load_corpus(source: str, overrides: tuple[str, ...] = ()) -> CorpusSpec:
    """The same for a corpus: a corpus spec, a preset's name, or a sweep's TOML file, whose corpus is taken.

    Raises:
        SpecError: one line for each thing that is wrong, naming file and key.
    """
    document = read_toml(source, CORPORA)
    if "corpus" in document:
        _expand(document)
        document = document["corpus"]
    for override in overrides:
        merge(document, override)
    return validate(CorpusSpec, document, source, TABLES)


def _expand(document: dict[str, Any]) -> None:
    if isinstance(document["corpus"], str):
        document["corpus"] = read_toml(document["corpus"], CORPORA)
