import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.tables.table import TableError, read_table, table_of

GOOD = pd.DataFrame({"N": [1e6, 2e6, 3e6], "D": [1e8, 2e8, 3e8], "loss": [4.0, 3.5, 3.2], "mode": ["a", "b", "a"]})


def test_copies_and_checkpoints_are_clusters() -> None:
    copies = table_of(pd.concat([GOOD, GOOD.iloc[:1]]))
    assert copies.cluster is not None and copies.cluster.tolist() == [0, 1, 2, 0] and len(copies.N) == 4
    assert "1 row repeats N, D and loss of another one" in copies.notes[0]
    grid = pd.DataFrame({"N": [1e6, 1e6, 2e6, 2e6], "D": [1e8, 2e8, 1e8, 2e8], "loss": [4, 3.8, 3.6, 3.4]})
    assert table_of(grid).cluster is None and table_of(grid.assign(run_id=list("abcd"))).cluster is None
    for extra, by in ({"run_id": list("aabb")}, "column run_id"), ({"seed": [0, 0, 0, 0]}, "N and seed"):
        table = table_of(grid.assign(**extra))
        assert (
            table.cluster is not None
            and table.cluster.tolist() == [0, 0, 1, 1]
            and f"recognised by {by}" in table.notes[0]
        )
    own_rates = table_of(grid.assign(seed=0, lr=[1e-3, 2e-3, 1e-3, 2e-3]))
    assert own_rates.cluster is None  # checkpoints of one run have one learning rate
    given = table_of(grid.assign(node=["x", "y", "x", None]), cluster_col="node")
    assert given.cluster is not None and given.cluster.tolist() == [0, 1, 0, 2]  # no value: a cluster of its own
    with pytest.raises(TableError, match="no column 'pod'"):
        table_of(grid, cluster_col="pod")
    both = table_of(pd.concat([grid.assign(run_id=list("aabc")), grid.iloc[1:2].assign(run_id="z")]))
    assert both.cluster is not None and both.cluster.tolist() == [0, 0, 1, 2, 0]  # the copy joins its original's run


def test_a_ledger_knows_its_trunks() -> None:
    runs = pd.DataFrame(
        {"key": list("abcd"), "state": "done", "N_total": [1, 1, 2, 2], "D": [5, 6, 5, 6], "test_loss": [4, 3, 2, 1.5]}
    )
    spec = {"seed": 0, "schedule": {"p": 0.5}, "tokens": 5}
    power = [json.dumps(spec | {"model": int(row.N_total), "tokens": int(row.D)}) for row in runs.itertuples()]
    trunks = table_of(runs.assign(spec=power, seed=0)).cluster
    assert trunks is not None and trunks.tolist() == [0, 0, 1, 1]
    cosine = [text.replace('"p": 0.5', '"kind": "cosine"') for text in power]
    assert table_of(runs.assign(spec=cosine, seed=0)).cluster is None


def test_noise_from_standard_errors_and_seeds(reference: Path) -> None:
    table = table_of(GOOD.assign(loss_se=[0.04, 0.035, 0.032]))
    assert table.se is not None and table.se.tolist() == pytest.approx([0.01] * 3)
    assert table_of(GOOD.assign(noise=0.1), se_col="noise").se == pytest.approx(0.1 / GOOD.loss)
    gappy = table_of(GOOD.assign(loss_se=[0.04, None, 0.0]))
    assert gappy.se is None and "2 runs without a positive one" in gappy.notes[0]
    with pytest.raises(TableError, match="column noise: 1 run without a positive standard error"):
        table_of(GOOD.assign(noise=[0.1, 0.1, -1]), se_col="noise")
    gadre = read_table(reference / "gadre_104.csv")
    assert gadre.se is not None and gadre.se[0] == pytest.approx(
        (3.53053282 - 3.52528337) / 3.92 / 3.52794929, rel=1e-4
    )
    seeds = np.exp(np.array([0.01, -0.01, 0.03, 0.0, 0.0]))
    frame = pd.DataFrame({"N": [1e6, 1e6, 2e6, 2e6, 3e6], "D": 1e8, "loss": 3 * seeds, "seed": [0, 1, 0, 1, 0]})
    table = table_of(frame)
    assert table.seed_df == 2 and table.seed_sd == pytest.approx(np.sqrt((2 * 0.01**2 + 2 * 0.015**2) / 2))
    assert table_of(pd.concat([frame, frame])).seed_df == 2  # copies are no new seeds
    assert table_of(frame.assign(lr=[1e-3, 2e-3, 1e-3, 1e-3, 1e-3])).seed_df == 1  # another rate is no other seed
