"""A stack that is stopped goes on with the same bits; another D branches off its trunk; its curves and documents are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sixnd.train.documents import load_document_losses
from sixnd.train.loop import Stopped, train
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec
from sixnd.train.stacked import train_stacked

from tests.train.stops import quiet

TIMES = {"tokens_per_s", "wall_s", "finished_at"}


@pytest.fixture
def stack(run_spec: RunSpec) -> list[RunSpec]:
    spec = run_spec.model_copy(update={"precision": "fp32", "tokens": 100 * run_spec.batch_tokens})
    return [spec.model_copy(update={"seed": seed}) for seed in (0, 1, 2)]


def results(records: list[RunRecord]) -> list[dict[str, object]]:
    return [record.model_dump(exclude=TIMES) for record in records]


def after(steps: int) -> Callable[[], bool]:
    """Says yes once it was asked so often."""
    asked = iter(range(10**9))
    return lambda: next(asked) + 1 >= steps


def trained(stack: list[RunSpec], corpora: Path, **options: object) -> list[RunRecord]:
    return train_stacked(stack, corpora=corpora, listener=lambda _: None, say=quiet, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [7, 80, 95])
def test_a_stopped_stack_goes_on_with_the_same_bits(
    stack: list[RunSpec], corpora: Path, tmp_path: Path, steps: int
) -> None:
    """In the trunk, at the branch point and in the cooldown."""
    straight = results(trained(stack, corpora))
    with pytest.raises(Stopped) as end:
        trained(stack, corpora, checkpoints=tmp_path, stop=after(steps))
    assert end.value.curves.keys() == {spec.key for spec in stack}
    assert results(trained(stack, corpora, checkpoints=tmp_path)) == straight


def test_another_d_branches_off_the_stacks_trunk(stack: list[RunSpec], corpora: Path, tmp_path: Path) -> None:
    longer = [spec.model_copy(update={"tokens": 2 * spec.tokens}) for spec in stack]
    straight = results(trained(longer, corpora))
    trained(stack, corpora, checkpoints=tmp_path)
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    assert results(trained(longer, corpora, checkpoints=tmp_path, stop=count)) == straight
    assert asked == 120, "the first 80 of 200 steps are those of the shorter run's trunk"


def test_a_stacked_run_records_what_a_single_one_does(stack: list[RunSpec], corpora: Path, tmp_path: Path) -> None:
    for spec, record in zip(stack, trained(stack, corpora, documents=tmp_path / "stacked"), strict=True):
        alone = train(spec, corpora=corpora, documents=tmp_path / "alone", listener=lambda _: None, say=quiet)
        assert [point.tokens for point in record.curve] == [point.tokens for point in alone.curve]
        for a, b in zip(record.curve, alone.curve, strict=True):
            assert a.loss == pytest.approx(b.loss, rel=1e-4)
        a, b = (load_document_losses(tmp_path / where, spec.key) for where in ("stacked", "alone"))
        assert a.nats == pytest.approx(b.nats, rel=1e-3)
