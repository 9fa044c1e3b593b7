"""From a sweep to its runs: every run resolved, checked against the corpus, and costed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ...models.config import ModelConfig
from ...models.flops import six_n, training_flops
from ...train.corpus.store import Corpus, unique_tokens
from ...train.curve import CURVE_POSITIONS, curve_steps
from ...train.schedule import Cosine, Schedule
from ...train.settings import OptimizerSettings, Precision, beta2_for, peak_lr
from ...train.spec import RunSpec
from ..spec import SpecError, SweepSpec
from ..tuning.rule_file import RuleFile, tuned_settings
from .grid import Cells, cells_of, problems_of

WARMUP_SHARE = 0.05  # of the smallest D on the trunk
FORWARD_SHARE = 0.45  # of a training step's time that evaluation takes for the same tokens: 1/2.2 to 1/2.8 measured


@dataclass(frozen=True)
class Trunk:
    """Runs of one model and seed, by D: they share every step before their cooldowns."""

    runs: tuple[RunSpec, ...]

    @property
    def key(self) -> str:
        return self.runs[0].trunk_key

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Of its runs; a key is a hash, and a plan asks for it often."""
        return tuple(run.key for run in self.runs)

    def trained_tokens(self, done: frozenset[str] = frozenset()) -> dict[str, int]:
        """Tokens that each unfinished run still trains: its stretch of trunk, and its cooldown."""
        position, tokens = 0, {}
        for run, key in zip(self.runs, self.keys, strict=True):
            branch = run.branch_step * run.batch_tokens
            if key not in done:
                tokens[key] = (branch - position) + (run.tokens - branch)
            position = branch
        return tokens


@dataclass(frozen=True)
class Plan:
    """The sweep's trunks and what they cost."""

    trunks: tuple[Trunk, ...]
    test_tokens: int
    rule: str | None = None  # digest of the tuned rule that its learning rates come from; None: untuned

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        return tuple(run for trunk in self.trunks for run in trunk.runs)

    @property
    def precision(self) -> Precision:
        """Of all runs."""
        return self.trunks[0].runs[0].precision

    @property
    def trunk_saving(self) -> float:
        """Tokens of separate runs over tokens trained with shared trunks."""
        return sum(run.tokens for run in self.runs) / sum(sum(t.trained_tokens().values()) for t in self.trunks)

    @property
    def trained_flops(self) -> float:
        """6ND of what is trained: every stretch of trunk once, and every cooldown."""
        return sum(
            float(six_n(trunk.runs[0].model.n_total) * sum(trunk.trained_tokens().values())) for trunk in self.trunks
        )

    def only(self, keys: frozenset[str]) -> Plan:
        """The same plan with these runs alone; their specs do not change, so neither do their keys."""
        left = (
            tuple(run for run, key in zip(trunk.runs, trunk.keys, strict=True) if key in keys) for trunk in self.trunks
        )
        return replace(self, trunks=tuple(Trunk(runs) for runs in left if runs))

    def seconds(
        self, tokens_per_s: Mapping[ModelConfig, float], done: frozenset[str] = frozenset()
    ) -> dict[str, float]:
        """Expected seconds of each unfinished run on one worker: its steps and its pass over the test set."""
        evaluation = self.evaluation_seconds(tokens_per_s)
        return {
            key: tokens / tokens_per_s[trunk.runs[0].model] + evaluation[key]
            for trunk in self.trunks
            for key, tokens in trunk.trained_tokens(done).items()
        }

    def evaluation_seconds(self, tokens_per_s: Mapping[ModelConfig, float]) -> dict[str, float]:
        """Of these, those that every run spends on the test set and on the points of its curve."""
        expected = {}
        for trunk in self.trunks:
            for run, key in zip(trunk.runs, trunk.keys, strict=True):
                points = len(curve_steps(run.n_steps, run.batch_tokens))
                evaluated = self.test_tokens + points * min(CURVE_POSITIONS, self.test_tokens)
                expected[key] = FORWARD_SHARE * evaluated / tokens_per_s[run.model]
        return expected


def make_plan(
    sweep: SweepSpec,
    corpus: Corpus,
    check: Callable[[SweepSpec, Cells, int], Iterable[str]] = problems_of,
    rule: RuleFile | None = None,
) -> Plan:
    """Resolves every `auto`, by the tuned rule where there is one, and refuses by name what cannot or should not be trained.

    `check` says what that is; a run that is no cell of a law asks only for what is `impossible`. What the device decides,
    `train.precision`, must be settled (see `with_precision`).

    Raises:
        ValueError: the precision is still auto.
        SpecError: rows that fall on one shape, D beyond one epoch, too few steps, too large a batch; one line for each.
    """
    most = unique_tokens(len(corpus.train), sweep.train.context)
    cells = _checked(sweep, corpus, check, most)
    tuned = {model: tuned_settings(rule, model, columns) for model, columns in cells.items()} if rule else {}
    if tuned:  # D in whole numbers of the largest batch, so that columns stay equal
        largest = max(batch for _, batch in tuned.values())
        cells = _checked(_with(sweep, {"batch_tokens": largest}), corpus, check, most)
    trunks: list[Trunk] = []
    for model, columns in cells.items():
        lr, batch = tuned.get(model, (sweep.train.lr, sweep.train.batch_tokens))
        for seed in sweep.seeds:
            trunks += _trunks(_row(_with(sweep, {"lr": lr, "batch_tokens": batch}), corpus, model, seed, columns))
    return Plan(tuple(trunks), len(corpus.test), rule.digest if rule else None)


def _checked(
    sweep: SweepSpec, corpus: Corpus, check: Callable[[SweepSpec, Cells, int], Iterable[str]], most: int
) -> Cells:
    cells = cells_of(sweep, corpus.vocab_size)
    if problems := list(check(sweep, cells, most)):
        raise SpecError("\n".join(problems))
    return cells


def _with(sweep: SweepSpec, settings: dict[str, object]) -> SweepSpec:
    """The sweep with some other training settings."""
    return sweep.model_copy(update={"train": sweep.train.model_copy(update=settings)})


def _trunks(row: tuple[RunSpec, ...]) -> tuple[Trunk, ...]:
    """One trunk for all D of a row, or, with a schedule that depends on D, one each."""
    return (Trunk(row),) if row[0].schedule.shares_trunk else tuple(Trunk((run,)) for run in row)


def _row(
    sweep: SweepSpec, corpus: Corpus, model: ModelConfig, seed: int, columns: tuple[int, ...]
) -> tuple[RunSpec, ...]:
    settings = sweep.train
    if settings.precision == "auto":
        raise ValueError("train.precision is still auto")
    # Too long a warm-up moves the frontier exponent by 0.10 (Porian et al. 2024, arXiv 2406.19146).
    warmup = (
        min(model.n_total, int(WARMUP_SHARE * columns[0]))
        if settings.warmup_tokens == "auto"
        else settings.warmup_tokens
    )
    optimizer = OptimizerSettings(
        name=settings.optimizer,
        lr=peak_lr(model.n_non_embedding) if settings.lr == "auto" else settings.lr,
        beta1=settings.beta1,
        beta2=beta2_for(settings.batch_tokens) if settings.beta2 == "auto" else settings.beta2,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        z_loss=settings.z_loss,
    )
    schedule: Schedule | Cosine = Cosine(warmup_tokens=warmup)
    if settings.schedule == "power":
        schedule = Schedule(
            p=settings.p, warmup_tokens=warmup, cooldown=settings.cooldown, cooldown_shape=settings.cooldown_shape
        )
    return tuple(
        RunSpec(
            corpus=corpus.hash,
            model=model,
            tokens=tokens,
            seed=seed,
            batch_tokens=settings.batch_tokens,
            optimizer=optimizer,
            schedule=schedule,
            precision=settings.precision,
        )
        for tokens in columns
    )


def planned_row(run: RunSpec, tuned: bool = False) -> dict[str, object]:
    """What the ledger says of a run before it is trained."""
    shape = run.model
    return {
        "key": run.key,
        "state": "planned",
        "N_total": shape.n_total,
        "N_non_embedding": shape.n_non_embedding,
        "N_matmul": shape.n_matmul,
        "D": run.tokens,
        "C_6nd": float(six_n(shape.n_total) * run.tokens),
        "C_exact": training_flops(shape).total * run.tokens,
        "lr": run.optimizer.lr,
        "batch_tokens": run.batch_tokens,
        "tuned": int(tuned),
        "seed": run.seed,
        "corpus": run.corpus,
        "spec": run.model_dump_json(),
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
    }
