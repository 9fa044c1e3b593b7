"""The plan for the terminal: a row a run, or a row a model where there are many, and what it all costs and buys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from ...models.config import ModelConfig
from ...models.flops import six_n, training_flops
from ...train.memory import checkpoint_bytes, training_bytes
from ...train.spec import RunSpec
from ..show import bytes_in_words, seconds_in_words, short, table_with
from .forecast import Forecast
from .plan import Plan, Trunk
from .worth import CAVEAT, Guess, Worth

MOST_ROWS = 40
LEDGER_BYTES_PER_RUN = 8_000
DOCUMENT_BYTES = 8  # of each held-out document's loss


@dataclass(frozen=True)
class Costed:
    """A plan with what it costs on a device: expected seconds by key of each unfinished run, and the whole as scheduled."""

    plan: Plan
    seconds: Mapping[str, float]
    forecast: Forecast
    kind: str  # "cpu" or "cuda"
    test_documents: int

    @property
    def disk_bytes(self) -> int:
        """Held at once: two periodic checkpoints and the branch points of each trunk in flight, documents' losses, ledger."""
        of_trunks = (
            (2 + len(trunk.runs)) * checkpoint_bytes(trunk.runs[0].model)
            for trunk in self.plan.trunks
            if any(key in self.seconds for key in trunk.keys)
        )
        in_flight = sorted(of_trunks, reverse=True)[: self.forecast.slots]
        return sum(in_flight) + len(self.plan.runs) * (LEDGER_BYTES_PER_RUN + DOCUMENT_BYTES * self.test_documents)

    def memory(self, run: RunSpec) -> int:
        """Bytes of the run with its process."""
        return training_bytes(run.model, run.batch_tokens, self.kind, run.precision)


def plan_table(costed: Costed) -> Table:
    """One row a run while that can be read, else one a model."""
    return _run_table(costed) if len(costed.plan.runs) <= MOST_ROWS else _model_table(costed)


def plan_lines(costed: Costed, device: str) -> list[str]:
    """What the whole costs."""
    plan, time, todo = costed.plan, costed.forecast, len(costed.seconds)
    separate = sum(float(six_n(run.model.n_total)) * run.tokens for run in plan.runs)
    lines = [
        f"{len(plan.runs):,} runs in {len(plan.trunks):,} trunks, {todo:,} to train; {plan.trained_flops:.2e} FLOPs as 6ND, {separate:.2e}"
        f" as separate runs: shared trunks save {plan.trunk_saving:.2f}x of the tokens",
        f"expected {seconds_in_words(time.makespan_s)} on {time.slots} slot{'s' * (time.slots > 1)} ({time.slot_hours:.3g} slot-hours, {time.compile_s:.0f} s"
        f" of it compilation); speed of {device}",
    ]
    if todo:
        memory = sorted((costed.memory(run) for run in plan.runs), reverse=True)
        lines.append(
            f"memory {bytes_in_words(memory[0])} for the largest run; disk {bytes_in_words(costed.disk_bytes)} beside the corpus"
        )
    return lines


def worth_lines(worth: Worth | None, guess: Guess, before: Worth | None = None) -> list[str]:
    """What it will buy, and what the grid would have bought before it was shrunk."""
    if worth is None:
        return ["no law can be fitted to this grid: it takes at least 3 N and 3 D"]
    values = zip(
        ("alpha", "beta", "a"), (worth.alpha, worth.beta, worth.a), (*guess.params[3:], guess_a(guess)), strict=True
    )
    said = ", ".join(f"{name} {value:.2f} ± {se:.2g}" for name, se, value in values)
    lines = [f"expected standard errors: {said}", f"  under {guess.source}, noise {guess.noise:g} in log L; {CAVEAT}"]
    if before is not None:
        lines.append(
            f"  the whole grid of {before.runs:,} runs would give ± {before.alpha:.2g}, {before.beta:.2g}, {before.a:.2g}"
        )
    return lines


def left_out(grid: Plan, plan: Plan) -> list[str]:
    """The cells that a budget cut from the grid, a line a model; none where it cut nothing."""
    kept = frozenset(key for trunk in plan.trunks for key in trunk.keys)
    rows: dict[ModelConfig, set[int]] = {}
    for trunk in grid.trunks:
        for run, key in zip(trunk.runs, trunk.keys, strict=True):
            if key not in kept:
                rows.setdefault(run.model, set()).add(run.tokens)
    if not rows:
        return []
    cells = [f"  N {short(model.n_total)}: D {', '.join(map(short, sorted(ds)))}" for model, ds in rows.items()]
    return [f"the budget leaves {len(plan.runs):,} of {len(grid.runs):,} runs; left out are", *cells]


def guess_a(guess: Guess) -> float:
    """The frontier exponent of the guessed law: N* ~ C^a."""
    alpha, beta = guess.params[3:]
    return beta / (alpha + beta)


def plan_document(costed: Costed, worth: Worth | None, guess: Guess) -> dict[str, Any]:
    """All of it as JSON: bytes, seconds, FLOPs, tokens."""
    runs = [
        {
            "key": key,
            "trunk": trunk.key,
            "trained_tokens": trained[key],
            "n_layers": run.model.n_layers,
            "d_model": run.model.d_model,
            "N": run.model.n_total,
            "N_non_embedding": run.model.n_non_embedding,
            "D": run.tokens,
            "seed": run.seed,
            "C_6nd": six_n(run.model.n_total) * run.tokens,
            "C_exact": training_flops(run.model).total * run.tokens,
            "tokens_per_parameter": run.tokens / run.model.n_total,
            "lr": run.optimizer.lr,
            "memory_bytes": costed.memory(run),
            "seconds": costed.seconds.get(key),
        }
        for trunk in costed.plan.trunks
        for trained in [trunk.trained_tokens()]
        for run, key in zip(trunk.runs, trunk.keys, strict=True)
    ]
    return {
        "runs": runs,
        "trained_flops": costed.plan.trained_flops,
        "trunk_saving": costed.plan.trunk_saving,
        "forecast": asdict(costed.forecast),
        "disk_bytes": costed.disk_bytes,
        "guess": asdict(guess),
        "expected_errors": None if worth is None else asdict(worth),
    }


def _run_table(costed: Costed) -> Table:
    table = table_with(
        "layers x width", "N", "N no emb.", "D", "from", "seed", "D/N", "C = 6ND", "C exact", "lr", "memory", "time"
    )
    for trunk in costed.plan.trunks:
        for place, (run, key) in enumerate(zip(trunk.runs, trunk.keys, strict=True)):
            shape = run.model
            table.add_row(
                f"{shape.n_layers} x {shape.d_model}",
                short(shape.n_total),
                short(shape.n_non_embedding),
                short(run.tokens),
                _starts(trunk, place),
                str(run.seed),
                f"{run.tokens / shape.n_total:.1f}",
                f"{six_n(shape.n_total) * run.tokens:.2e}",
                f"{training_flops(shape).total * run.tokens:.2e}",
                f"{run.optimizer.lr:.2g}",
                bytes_in_words(costed.memory(run)),
                "done" if key not in costed.seconds else seconds_in_words(costed.seconds[key]),
            )
    return table


def _starts(trunk: Trunk, place: int) -> str:
    """The token of its trunk at which a run goes on from what the one before it left; the first starts the trunk."""
    before = trunk.runs[place - 1]
    return "start" if place == 0 else short(before.branch_step * before.batch_tokens)


def _model_table(costed: Costed) -> Table:
    table = table_with(
        "layers x width", "N", "N no emb.", "runs", "seeds", "D", "D/N", "C = 6ND", "C exact", "lr", "memory", "time"
    )
    rows: dict[object, list[Trunk]] = {}
    for trunk in costed.plan.trunks:
        rows.setdefault(trunk.runs[0].model, []).append(trunk)
    for trunks in rows.values():
        runs = [run for trunk in trunks for run in trunk.runs]
        shape, tokens = runs[0].model, sorted({run.tokens for run in runs})
        left = [costed.seconds[key] for trunk in trunks for key in trunk.keys if key in costed.seconds]
        total = sum(run.tokens for run in runs)
        table.add_row(
            f"{shape.n_layers} x {shape.d_model}",
            short(shape.n_total),
            short(shape.n_non_embedding),
            f"{len(runs):,}",
            str(len({run.seed for run in runs})),
            _range(short(tokens[0]), short(tokens[-1])),
            _range(f"{tokens[0] / shape.n_total:.1f}", f"{tokens[-1] / shape.n_total:.1f}"),
            f"{six_n(shape.n_total) * total:.2e}",
            f"{training_flops(shape).total * total:.2e}",
            f"{runs[0].optimizer.lr:.2g}",
            bytes_in_words(costed.memory(runs[0])),
            seconds_in_words(sum(left)) if left else "done",
        )
    return table


def _range(first: str, last: str) -> str:
    return first if first == last else f"{first} .. {last}"
