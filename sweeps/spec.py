"""A sweep as a TOML file: the grid, the corpus and the training settings, checked all at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ..train.corpus.spec import TABLES, CorpusSpec
from .counts import Count, parse_count
from .toml import SpecError, merge, read_toml, validate
from .tuning.spec import TuningSettings

SWEEPS, CORPORA = "sixnd.sweeps.presets", "sixnd.train.corpus.presets"


def parse_flops(value: object) -> object:
    """'1e15' and 1e15 alike: TOML files write budgets either way."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number of FLOPs such as 1e15") from None
    return value


def parse_budget(text: str) -> Budget:
    """'2h' and '90m' are hours of the whole sweep, '1e18' is FLOPs.

    Raises:
        SpecError: it is none of them; the line names the option.
    """
    unit = {"h": 1.0, "m": 1 / 60}.get(text[-1:])
    try:
        return Budget(flops=float(text)) if unit is None else Budget(hours=float(text[:-1]) * unit)
    except ValueError:
        raise SpecError(f"--budget {text!r}: allowed are hours ('2h'), minutes ('90m') or FLOPs ('1e18')") from None


def count_option(option: str, text: str | None) -> int:
    """A count that was given on the command line.

    Raises:
        SpecError: it is none; the line names the option.
    """
    try:
        return int(str(parse_count(text)))
    except ValueError as error:
        raise SpecError(f"{option}: {error}") from None


Flops = Annotated[float, BeforeValidator(parse_flops), Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Auto = Literal["auto"]
__all__ = [
    "Budget",
    "IsoFlop",
    "SpecError",
    "SweepSpec",
    "TrainSettings",
    "count_option",
    "load_corpus",
    "load_sweep",
    "parse_budget",
    "parse_count",
]


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
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the device multiplies in it, else fp32"
    )

    @model_validator(mode="after")
    def _cosine_has_no_cooldown(self) -> Self:
        if self.schedule == "cosine" and (given := {"p", "cooldown", "cooldown_shape"} & self.model_fields_set):
            raise ValueError(f"schedule = 'cosine' takes no {', '.join(sorted(given))}")
        return self


class IsoFlop(BaseModel):
    """Curves of constant C: `sizes` models around a guess of the optimum, each trained on D = C/(6 N).

    The guess is N* = sqrt(C / (6 · tokens_per_parameter)), or the frontier of a previous fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops: list[Flops] = Field(min_length=1, description="C of each curve, as 6·N_total·D")
    sizes: int = Field(default=7, ge=3, le=50)
    spread: float = Field(default=4.0, gt=1, le=1000, description="N goes from N*/spread to N*·spread")
    tokens_per_parameter: Ratio = Field(default=20.0, description="of the guess: Hoffmann et al. 2022, table 3")
    fit: str | None = Field(default=None, description="a fit.json whose frontier is the guess instead")

    @model_validator(mode="after")
    def _one_guess(self) -> Self:
        if self.fit is not None and "tokens_per_parameter" in self.model_fields_set:
            raise ValueError("give either tokens_per_parameter or fit, not both")
        if len(set(self.flops)) < len(self.flops):
            raise ValueError("flops names a value twice")
        return self


class Budget(BaseModel):
    """What the sweep may cost; a grid that costs more is shrunk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hours: Ratio | None = Field(default=None, description="of the whole sweep on its slots, as forecast")
    flops: Flops | None = Field(default=None, description="trained, as 6·N_total·D with shared trunks")


class RaySettings(BaseModel):
    """How runs are placed on a Ray cluster; read with executor = 'ray' only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(
        default="auto", description="'auto': the cluster found; 'local': one started here; or HOST:PORT"
    )
    gpus_per_run: float = Field(default=0.0, ge=0, description="0 on machines without; 0.25 packs four runs on a GPU")
    cpus_per_run: float = Field(default=1.0, gt=0)
    store: str | None = Field(
        default=None, description="fsspec URL of checkpoints and corpora where nodes share no disk"
    )

    @field_validator("store")
    @classmethod
    def _is_of_a_kind_that_opens_here(cls, store: str | None) -> str | None:
        if store is not None:
            from fsspec import get_filesystem_class
            from fsspec.utils import get_protocol

            try:
                get_filesystem_class(get_protocol(store))
            except (ImportError, ValueError) as error:
                raise ValueError(str(error)) from None
        return store


class SweepSpec(BaseModel):
    """A grid of models by token counts by seeds, each cell one run of one epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    tokens: list[Count] = Field(default=[], description="D of each column, cut down to whole batches")
    tokens_per_parameter: list[Ratio] = Field(default=[], description="or D / N_total of each column")
    isoflop: IsoFlop | None = Field(default=None, description="or curves of constant C, which bring their own N")
    shapes: list[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=16)]]] = Field(
        default=[], description="[n_layers, d_model] of each row"
    )
    params: list[Count] = Field(default=[], description="or the non-embedding N of each row: nearest shapes are taken")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    workers: int | None = Field(default=None, ge=1, description="processes of one thread; by default one a core or GPU")
    executor: Literal["local", "ray"] = "local"
    ray: RaySettings = RaySettings()
    budget: Budget = Budget()
    trackers: list[Annotated[str, Field(pattern=r"^(wandb|trackio|tensorboard|mlflow|[\w.]+:\w+)$")]] = Field(
        default=[], description="wandb, trackio, tensorboard, mlflow, or module:Class of your own"
    )
    corpus: CorpusSpec
    train: TrainSettings = TrainSettings()
    tuning: TuningSettings | None = None

    @model_validator(mode="after")
    def _one_way_to_name_columns_and_rows(self) -> Self:
        if sum(map(bool, (self.tokens, self.tokens_per_parameter, self.isoflop))) != 1:
            raise ValueError(
                "give one of tokens = ['1M', ...], tokens_per_parameter = [20, ...] or a table [isoflop] with flops = ['1e15', ...]"
            )
        if self.isoflop and (self.shapes or self.params):
            raise ValueError("[isoflop] brings its own models: give no shapes and no params with it")
        if not self.isoflop and bool(self.shapes) == bool(self.params):
            raise ValueError("give either shapes = [[n_layers, d_model], ...] or params = ['25k', ...]")
        for key in ("tokens", "tokens_per_parameter", "shapes", "params", "seeds", "trackers"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice")
        return self

    def settings(self) -> dict[str, Any]:
        """Everything that every run shares, which a ledger keeps to: the corpus and how it is trained on."""
        return self.model_dump(mode="json", include={"corpus", "train"})

    def grid(self) -> dict[str, Any]:
        """What decides which cells there are, before any budget."""
        keys = {"tokens", "tokens_per_parameter", "isoflop", "shapes", "params", "seeds"}
        return self.model_dump(mode="json", include=keys) | self.settings()


SWEEP_TABLES: dict[str, type[BaseModel]] = {
    "train": TrainSettings,
    "isoflop": IsoFlop,
    "budget": Budget,
    "ray": RaySettings,
    "tuning": TuningSettings,
}


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
    return validate(SweepSpec, document, source, {**TABLES, **SWEEP_TABLES})


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
