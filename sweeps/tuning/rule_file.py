"""rule.json: the tuned rule with all that it stands on, and the learning rate and batch that it gives a row of the grid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...analysis.tuning.ladder import Ladder, climb
from ...analysis.tuning.optima import LadderTable
from ...analysis.tuning.rule import PowerLaw
from ...models.config import ModelConfig
from ..show import write_json
from ..toml import SpecError

FOLDER, RULE = "tuning", "rule.json"
OF_THE_RULE = ("lr", "batch_tokens")  # training settings that a rule replaces


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RungEntry(_Frozen):
    """The optimum of one (N, D); `lr`, `se_octaves` and the like are None where it is not bracketed."""

    N: float
    D: float
    batch: float
    status: str
    lr: float | None
    se_octaves: float | None
    loss: float | None
    curvature: float | None  # nats per octave²
    excess: float | None  # nats above the optimum at the rule's own learning rate


class RuleFile(_Frozen):
    """The rule of one ladder."""

    version: Literal[1] = 1
    corpus: str
    settings: dict[str, Any]  # of training, all but those that the rule replaces
    batch_tokens: int  # of the ladder, and of the grid where batches were not compared
    lr: PowerLaw
    batch: PowerLaw | None
    noise: float  # standard deviation of one run about its parabola, nats
    correlation: float  # of the noise of two D on one trunk
    rungs: tuple[RungEntry, ...]
    runs: tuple[dict[str, float | None], ...]  # N, D, batch, lr, loss of every run; loss None: diverged
    notes: tuple[str, ...]
    sixnd_version: str

    @property
    def digest(self) -> str:
        """Names what the rule says, whatever it was fitted from."""
        said = self.model_dump_json(include={"lr", "batch", "batch_tokens"}, exclude_defaults=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def rule_file(
    ladder: Ladder, runs: Sequence[dict[str, float | None]], corpus: str, train: Mapping[str, Any], batch_tokens: int
) -> RuleFile | None:
    """What is written of a ladder; None where no rung is bracketed."""
    if ladder.lr is None:
        return None
    rungs = []
    for cell in ladder.cells:
        inside = cell.status == "interior"
        off = math.log2(ladder.lr.value(cell.N, cell.D, cell.batch)) - cell.log2_lr
        rungs.append(
            RungEntry(
                N=cell.N,
                D=cell.D,
                batch=cell.batch,
                status=cell.status,
                lr=cell.lr if inside else None,
                se_octaves=cell.se if inside else None,
                loss=cell.loss if math.isfinite(cell.loss) else None,
                curvature=cell.curvature if inside else None,
                excess=cell.curvature * off**2 if inside else None,
            )
        )
    return RuleFile(
        corpus=corpus,
        settings={key: value for key, value in train.items() if key not in OF_THE_RULE},
        batch_tokens=batch_tokens,
        lr=ladder.lr,
        batch=ladder.batch,
        noise=ladder.optima.noise,
        correlation=ladder.optima.correlation,
        rungs=tuple(rungs),
        runs=tuple(runs),
        notes=ladder.notes,
        sixnd_version=version("sixnd"),
    )


def write_rule(path: Path, rule: RuleFile) -> None:
    """In one step."""
    write_json(path, rule.model_dump(mode="json"))


def read_rule(path: Path) -> RuleFile:
    """
    Raises:
        SpecError: there is none, or it is not a rule of this version.
    """
    try:
        return RuleFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path}: no rule can be read ({error.strerror}); `sixnd tune` writes one") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(
            f"{path}: not a rule of version 1: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def check_rule(rule: RuleFile, path: Path, train: Mapping[str, Any]) -> None:
    """A rule holds for the training settings that it was tuned with.

    Raises:
        SpecError: the sweep has others; one line for each that differs.
    """
    wanted = {key: value for key, value in train.items() if key not in OF_THE_RULE}
    problems = [
        f"{path}: tuned with train.{key} = {rule.settings.get(key)!r}, not {wanted.get(key)!r}: tune again in another --out"
        for key in sorted(wanted.keys() | rule.settings.keys())
        if wanted.get(key) != rule.settings.get(key)
    ]
    if rule.batch is None and train["batch_tokens"] != rule.batch_tokens:
        problems.append(
            f"{path}: tuned with train.batch_tokens = {rule.batch_tokens}, not {train['batch_tokens']}: the best learning"
            " rate depends on the batch; tune again in another --out, or tune batches too (tuning.batch_factors)"
        )
    if problems:
        raise SpecError("\n".join(problems))


def tuned_settings(rule: RuleFile, model: ModelConfig, tokens: Sequence[int]) -> tuple[float, int]:
    """Learning rate and batch (tokens) of a row: the runs of one model at each D of `tokens`, which share a trunk.

    The rule is taken at the geometric mean of the D. Where the best batch is known, the row's is the nearest power of two
    of contexts, and the learning rate is the rule's at that batch; a rule without an exponent of B follows its square root
    (Malladi et al. 2022, arXiv 2205.10287).
    """
    d, n = math.exp(sum(map(math.log, tokens)) / len(tokens)), model.n_non_embedding
    if rule.batch is None:
        return rule.lr.value(n, d, rule.batch_tokens), rule.batch_tokens
    best = rule.batch.value(n, d)
    batch = model.context * 2 ** max(0, round(math.log2(best / model.context)))
    return rule.lr.value(n, d, batch) * (1.0 if "B" in rule.lr.fitted else math.sqrt(batch / best)), batch


def worst_excess(rule: RuleFile, model: ModelConfig, tokens: Sequence[int]) -> float:
    """Nats that the shared learning rate of a row is expected to cost at the D where it costs most, the rule's error included."""
    ladder, (lr, batch) = climb(LadderTable.of(rule.runs)), tuned_settings(rule, model, tokens)
    return max(ladder.excess(model.n_non_embedding, d, lr, batch) for d in tokens)
