"""A sweep as a TOML file: the grid, the corpus and the training settings, checked all at once."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..train.corpus.spec import CorpusSpec

SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


class SpecError(ValueError):
    """A sweep that cannot be read; the message holds one line for each error."""


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


Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
Auto = Literal["auto"]


class TrainSettings(BaseModel):
    """How each run of the sweep is trained; `auto` values follow the run's N and the grid's smallest D."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int = Field(default=256, ge=8)
    batch_tokens: Count = 2048
    lr: Annotated[float, Field(gt=0, lt=1)] | Auto = "auto"
    p: float = Field(default=0.0, ge=0, le=1)
    warmup_tokens: Annotated[int, BeforeValidator(parse_count), Field(ge=0)] | Auto = "auto"
    cooldown: float = Field(default=0.2, ge=0, le=1)
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    clip_norm: float = Field(default=1.0, gt=0)
    z_loss: float = Field(default=1e-5, ge=0)
    qk_norm: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"


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
    corpus: CorpusSpec = CorpusSpec(name="demo")
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


def preset_path(name: str) -> Path:
    """The file of a preset that comes with the package, such as `demo`."""
    return Path(str(files("sixnd.sweeps.presets") / f"{name}.toml"))


def load_sweep(source: str, overrides: tuple[str, ...] = ()) -> SweepSpec:
    """Reads a TOML file (or a preset's name), merges `key=value` overrides, and validates once.

    Raises:
        SpecError: one line for each thing that is wrong, naming file and key.
    """
    path = Path(source)
    if not path.exists() and path.suffix != ".toml" and preset_path(source).exists():
        path = preset_path(source)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in preset_path("demo").parent.glob("*.toml")))
        raise SpecError(f"{source}: no such file; give a TOML file or a preset ({known})")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{source}: not valid TOML: {error}") from None
    for override in overrides:
        _merge(document, override)
    try:
        return SweepSpec.model_validate(document)
    except ValidationError as error:
        raise SpecError("\n".join(_lines(source, error))) from None


def _merge(document: dict[str, Any], override: str) -> None:
    """Puts `train.lr=3e-4` where it belongs; a value that is not TOML is taken as a string."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"{override!r}: an override is key=value, such as train.lr=3e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = key.strip().split(".")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise SpecError(f"{override!r}: {table} is not a table")
    document[last] = value


def _lines(source: str, error: ValidationError) -> list[str]:
    """`file: key = value: what is allowed`, one line a key, however many alternatives were tried for it."""
    lines: dict[str, list[str]] = {}
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"][:2])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            tables: dict[object, type[BaseModel]] = {"train": TrainSettings, "corpus": CorpusSpec}
            fields = tables.get(problem["loc"][0], SweepSpec).model_fields
            start, message = f"{source}: {key}", f"unknown key; allowed are {', '.join(fields)}"
        elif not key or problem["type"] == "missing":
            start = f"{source}: {key or 'the sweep'}"
        else:
            start = f"{source}: {key} = {str(problem['input'])[:80]!r}"
        lines.setdefault(start, []).append(message)
    return [f"{start}: {' or '.join(dict.fromkeys(messages))}" for start, messages in lines.items()]
