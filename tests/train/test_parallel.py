"""Two processes train what one does; what cannot be shared out is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sixnd.models.transformer import Transformer
from sixnd.train import loop
from sixnd.train.batches import BatchStream
from sixnd.train.checkpoint import Checkpoints, TrainState
from sixnd.train.corpus.store import Corpus
from sixnd.train.divergence import LossWatch
from sixnd.train.loop import RunError, check_fits, train
from sixnd.train.optimizer import build_optimizer
from sixnd.train.parallel import main
from sixnd.train.progress import Progress
from sixnd.train.ranks import Ranks
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec

from tests.conftest import BATCH
from tests.train import parallel_child
from tests.train.stops import quiet, result, stop_before_step

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.fixture
def short(run_spec: RunSpec) -> RunSpec:
    """20 steps in fp32, of which 16 are on the trunk."""
    return run_spec.model_copy(update={"precision": "fp32", "tokens": 20 * BATCH})


def test_two_processes_train_what_one_does(
    short: RunSpec, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of every step, the test loss and the weights, from the trunk of one process stopped at step 5 on."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    alone: list[Progress] = []
    one = train(short, corpora=corpora, weights=tmp_path / "one.pt", listener=alone.append, say=quiet)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before_step(patch, short, 5)
        train(short, corpora=corpora, checkpoints=tmp_path / "checkpoints", checkpoint_seconds=0, say=quiet)
    spec = tmp_path / "spec.json"
    spec.write_text(short.model_dump_json())
    command = [*TORCHRUN, parallel_child.__file__, str(spec), str(corpora), str(tmp_path)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=120)

    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert second == [None, []], "the first rank alone is listened to"
    two, losses = RunRecord.model_validate(first[0]), first[1]
    assert losses == pytest.approx([progress.loss for progress in alone[5:]], rel=1e-5)
    assert two.test_loss == pytest.approx(one.test_loss, rel=1e-5)
    assert two.key == one.key and two.device.startswith("2 x ")
    mine, theirs = (torch.load(tmp_path / name, weights_only=True) for name in ("weights.pt", "one.pt"))
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], atol=1e-5, rtol=1e-4)
    model = Transformer(short.model)
    state = TrainState(model, build_optimizer(model, short.optimizer), LossWatch.of(short))
    Checkpoints(tmp_path / "checkpoints", short).load_newest(state)
    assert state.step == short.branch_step == 16


def test_the_ranks_share_every_batch_between_them(corpus: Corpus) -> None:
    stream = BatchStream(corpus.train, 16, seed=0)
    for offset in (0, 5 * BATCH):
        parts = [stream.batch(*Ranks(rank, 4).share(offset, BATCH)) for rank in range(4)]
        assert torch.equal(torch.cat(parts), stream.batch(offset, BATCH))


def test_ranks_that_found_different_checkpoints_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the exchange itself, to which the other rank brings step 7."""

    def all_reduce(mine: torch.Tensor, _: torch.distributed.ReduceOp) -> None:
        mine.copy_(torch.maximum(mine, torch.tensor([7, -7])))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    cpu = torch.device("cpu")
    assert Ranks(0, 2).agree(7, cpu)
    assert not Ranks(0, 2).agree(5, cpu) and not Ranks(0, 2).agree(9, cpu)


def test_rows_that_do_not_divide_are_refused(short: RunSpec, corpus: Corpus, corpora: Path) -> None:
    check_fits(short, corpus, world=2)
    with pytest.raises(RunError, match="batch_tokens = 64 is 4 rows of context 16, which 3 processes") as error:
        train(short, corpora=corpora, say=quiet, ranks=Ranks(2, 3))
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_the_command_trains_and_writes_its_record(
    short: RunSpec, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun starts it, in a world of one."""
    torchrun = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    spec, record = tmp_path / "spec.json", tmp_path / "record.json"
    spec.write_text(short.model_dump_json())
    assert main([str(spec), "--corpora", str(corpora), "--record", str(record)]) == 0
    expected = result(train(short, corpora=corpora, say=quiet))
    assert result(RunRecord.model_validate_json(record.read_bytes())) == expected
    assert not torch.distributed.is_initialized()


def test_wrong_input_is_one_line_and_status_2(
    short: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(short.model_dump_json())
    bad.write_text(short.model_dump_json().replace('"seed":0', '"seed":-1'))
    for path, message in [
        (good, "not started by torchrun"),
        (bad, f"{bad}: seed: Input should be greater than or equal to 0"),
        (tmp_path / "none.json", "none.json: No such file"),
    ]:
        assert main([str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
