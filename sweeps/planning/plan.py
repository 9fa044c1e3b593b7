"""From a sweep to its runs: every run resolved, checked against the corpus, and costed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...models.config import ModelConfig
from ...models.flops import six_n, training_flops
from ...models.ladder import shape_for
from ...train.corpus.store import Corpus, unique_tokens
from ...train.curve import CURVE_POSITIONS, curve_steps
from ...train.schedule import Cosine, Schedule
from ...train.settings import OptimizerSettings, beta2_for, peak_lr
from ...train.spec import RunSpec
from ..spec import SpecError, SweepSpec

WARMUP_SHARE = 0.05  # of the smallest D on the trunk
FORWARD_SHARE = 0.45  # of a training step's time that evaluation takes for the same tokens: 1/2.2 to 1/2.8 measured


@dataclass(frozen=True)
class Trunk:
    """Runs of one model and seed, by D: they share every step before their cooldowns."""

    runs: tuple[RunSpec, ...]

    @property
    def key(self) -> str:
        return self.runs[0].trunk_key

    def trained_tokens(self, done: frozenset[str] = frozenset()) -> dict[str, int]:
        """Tokens that each unfinished run still trains: its stretch of trunk, and its cooldown."""
        position, tokens = 0, {}
        for run in self.runs:
            branch = run.branch_step * run.batch_tokens
            if run.key not in done:
                tokens[run.key] = (branch - position) + (run.tokens - branch)
            position = branch
        return tokens


@dataclass(frozen=True)
class Plan:
    """The sweep's trunks and what they cost."""

    trunks: tuple[Trunk, ...]
    test_tokens: int

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        return tuple(run for trunk in self.trunks for run in trunk.runs)

    @property
    def trunk_saving(self) -> float:
        """Tokens of separate runs over tokens trained with shared trunks."""
        return sum(run.tokens for run in self.runs) / sum(sum(t.trained_tokens().values()) for t in self.trunks)

    def seconds(
        self, tokens_per_s: Mapping[ModelConfig, float], done: frozenset[str] = frozenset()
    ) -> dict[str, float]:
        """Expected seconds of each unfinished run on one worker: its steps and its pass over the test set."""
        expected = {}
        for trunk in self.trunks:
            for key, tokens in trunk.trained_tokens(done).items():
                run = next(run for run in trunk.runs if run.key == key)
                points = len(curve_steps(run.n_steps, run.batch_tokens))
                evaluated = self.test_tokens + points * min(CURVE_POSITIONS, self.test_tokens)
                expected[key] = (tokens + FORWARD_SHARE * evaluated) / tokens_per_s[run.model]
        return expected


def make_plan(sweep: SweepSpec, corpus: Corpus) -> Plan:
    """Resolves every `auto`, and refuses by name what cannot be trained.

    Raises:
        SpecError: D beyond one epoch, below one batch, or rows that fall on one shape; one line for each.
    """
    settings, problems = sweep.train, []
    try:
        shapes = sweep.shapes or [shape_for(n) for n in sweep.params]
        models = [
            ModelConfig.from_shape(n_layers, d_model, corpus.vocab_size, settings.context).model_copy(
                update={"qk_norm": settings.qk_norm}
            )
            for n_layers, d_model in shapes
        ]
    except ValueError as error:
        raise SpecError(f"{sweep.name}: {'shapes' if sweep.shapes else 'params'}: {error}") from None
    if len(set(models)) < len(models):
        problems.append(f"{sweep.name}: params: two values fall on one shape ({shapes}); give them further apart")
    if settings.batch_tokens % settings.context:
        problems.append(
            f"{sweep.name}: train.batch_tokens = {settings.batch_tokens} is not a multiple of train.context = {settings.context}"
        )
    most = unique_tokens(len(corpus.train), settings.context)
    columns = sorted({tokens // settings.batch_tokens * settings.batch_tokens for tokens in sweep.tokens})
    for tokens in sweep.tokens:
        if tokens > most:
            problems.append(
                f"{sweep.name}: tokens: D = {tokens:,} is beyond one epoch: the corpus has {most:,} unique training"
                f" tokens at context {settings.context}; no run may see a token twice"
            )
        if tokens < settings.batch_tokens:
            problems.append(f"{sweep.name}: tokens: D = {tokens:,} is less than one batch of {settings.batch_tokens:,}")
    if problems:
        raise SpecError("\n".join(problems))
    rows = [_row(sweep, corpus, model, seed, columns) for model in models for seed in sweep.seeds]
    return Plan(tuple(trunk for row in rows for trunk in _trunks(row)), len(corpus.test))


def _trunks(row: tuple[RunSpec, ...]) -> tuple[Trunk, ...]:
    """One trunk for all D of a row, or, with a schedule that depends on D, one each."""
    return (Trunk(row),) if row[0].schedule.shares_trunk else tuple(Trunk((run,)) for run in row)


def _row(sweep: SweepSpec, corpus: Corpus, model: ModelConfig, seed: int, columns: list[int]) -> tuple[RunSpec, ...]:
    settings = sweep.train
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


def planned_row(run: RunSpec) -> dict[str, object]:
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
        "seed": run.seed,
        "corpus": run.corpus,
        "spec": run.model_dump_json(),
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
    }
