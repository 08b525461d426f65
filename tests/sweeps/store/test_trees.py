"""Trees that others have put things into: foreign files, links, hostile leases, other numerics."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from metaphase.analysis import load
from metaphase.core import version
from metaphase.core.cell import NUMERICS
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.commands import compact, status
from metaphase.sweeps.store import soundness, tables
from metaphase.sweeps.store.leasefile import AHEAD_SECONDS, parse_lease
from metaphase.sweeps.store.results import Results
from tests.tools.tree_fuzzer import CELLS, Fuzzer, in_process


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    with in_process():
        yield Fuzzer(tmp_path_factory.mktemp("trees"), seed=20)


@pytest.fixture
def tree(fuzzer, tmp_path):
    """Two cells finished, the third half trained."""
    return shutil.copytree(fuzzer._tree("plain"), tmp_path / "results" / "tiny")


@pytest.mark.parametrize("number", range(3))
def test_changed_trees(fuzzer, number):
    fuzzer.case(number)


@pytest.mark.slow
def test_thousands_of_changed_trees(fuzzer):
    for number in range(3, 3003):
        fuzzer.case(number)


# --- numerics ---


def set_numerics(tree, value):
    for path in (tree / "cells").glob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        at = table.column_names.index("numerics")
        if value is None:  # as earlier versions wrote it
            pq.write_table(table.remove_column(at), path)
        else:
            pq.write_table(table.set_column(at, "numerics", pa.array([value])), path)


@pytest.mark.parametrize("value", [None, NUMERICS + 1])
def test_other_numerics_are_not_mixed_unasked(fuzzer, tree, value, capsys):
    set_numerics(tree, value)
    ended, said = fuzzer.run(tree)
    assert ended == 1
    assert f"2 finished cells are of numerics {value or 1}, this program's are {NUMERICS}" in said
    assert "--set name=NAME" in said
    assert len(Results.at(str(tree)).finished()) == 2
    assert "2 finished cells are of other numerics" in fuzzer.call(status.main, tree)[1]

    ended, said = fuzzer.run(tree, "--other-numerics", "keep")
    assert ended == 0
    assert "are of numerics" in said
    with pytest.warns(load.ResultsWarning, match="cells of different numerics"):
        load.load_cells(tree)
    ended, said = fuzzer.run(tree)  # nothing to train, so nothing is refused
    assert ended == 0
    assert "Nothing to do" in said
    assert "are of numerics" in said

    ended, said = fuzzer.run(tree, "--other-numerics", "renew")
    assert ended == 0
    assert "2 of 3 cells to train" in said
    assert set(Results.at(str(tree)).survey()[1].values()) == {NUMERICS}
    pd.testing.assert_frame_equal(fuzzer.tables(tree)["cells"], fuzzer.expected["cells"])


def test_a_checkpoint_of_other_numerics_is_not_continued(fuzzer, tree):
    folder = tree / "checkpoints" / CELLS[2].cell_id
    for path in list(folder.glob("*.ckpt")):
        path.rename(path.with_name(path.name.replace(f".n{NUMERICS}", "")))
    results = Results.at(str(tree))
    assert results.checkpoints.read(CELLS[2].cell_id) is None
    assert results.checkpoints.steps() == {}
    assert results.checkpoints.of_other_numerics() == {CELLS[2].cell_id}
    ended, said = fuzzer.run(tree)
    assert ended == 0
    assert "checkpoints of 1 cells are of other numerics" in said
    pd.testing.assert_frame_equal(fuzzer.tables(tree)["cells"], fuzzer.expected["cells"])


def test_a_version_names_the_commit_or_the_sources(tmp_path, monkeypatch):
    said = version.own_version.__wrapped__()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=version._PACKAGE
    ).stdout.strip()
    assert f"commit {commit[:12]}" in said if commit else "sources" in said
    package = tmp_path / "core"
    package.mkdir()
    (package / "a.py").write_text("1")
    monkeypatch.setattr(version, "_PACKAGE", package)
    monkeypatch.setattr(version, "_installed_from", lambda: None)
    digest = version.sources_digest.__wrapped__()
    assert version._checked_out() is None
    (package / "a.py").write_text("2")
    assert version.sources_digest.__wrapped__() != digest
    assert len(digest) == 12


# --- checkpoints ---


def half_trained():
    trainer = PackTrainer([CELLS[2]])
    trainer.advance()
    [state] = trainer.states()
    return state


@pytest.mark.parametrize(
    "change",
    [
        {"theta": torch.zeros(3)},
        {"theta": None},
        {"moment1": "x"},
        {"diverged_at": 10},
        {"plateau_steps": 1.5},
        {"average_loss": None},
        {"wall_seconds": float("nan")},
        {"history": []},
        {"history": [{}]},
        {"history": "x"},
        {"step": 0},
        {"step": -2},
        {"step": True},
        {"numerics": 1},
        {"cell_id": "x"},
    ],
)
def test_a_state_whose_content_does_not_fit_is_refused(change):
    state = half_trained()
    check_state(CELLS[2], state)
    with pytest.raises(ValueError, match="it"):
        check_state(CELLS[2], state | change)
    with pytest.raises(ValueError, match="not a dict"):
        check_state(CELLS[2], [state])
    for key in state:
        if key != "numerics":  # without it, it is of revision 1
            with pytest.raises(ValueError, match="it"):
                check_state(CELLS[2], {k: v for k, v in state.items() if k != key})


# --- leases ---


@pytest.mark.parametrize(
    "text",
    ["", "x", "null", "[]", "[" * 9000, '{"a":' * 900, '{"driver": 1}', '{"driver": ""}'],
)
def test_what_is_no_lease_is_none(text):
    assert parse_lease(text.encode()) is None


@pytest.mark.parametrize("at", ["x", None, [], 1e999, -1, 10**400, 4e9, True])
def test_a_time_that_cannot_be_does_not_block(at, tree):
    lease = {"driver": "x", "host": "h\x1b[31m\n", "pid": "../..", "since": at, "expires": at}
    (tree / "driver").write_text(json.dumps(lease))
    found = Results.at(str(tree)).claim.lease()
    assert found["since"] == found["expires"] == 0.0
    assert found["host"] == "h\\x1b[31m\\n"
    assert found["pid"] == 0


def test_a_lease_is_kept_as_it_is():
    now = time.time()
    lease = {"driver": "d", "host": "h", "machine": "m", "pid": 7, "born": "1", "stop": False}
    lease |= {"since": now, "expires": now + 60.0}
    assert parse_lease(json.dumps(lease).encode()) == lease
    assert lease["expires"] < time.time() + AHEAD_SECONDS


# --- tables ---


def written(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


CURVE = {"cell_id": "a", "split": "seen", "position": 1, "accuracy": 0.5, "accuracy_se": 0, "n": 9}


def test_types_that_say_the_same_are_taken():
    table = pa.table(
        {
            "cell_id": pa.array(["a"]).dictionary_encode(),
            "split": pa.array(["seen"], pa.large_string()),
            "position": pa.array([1], pa.int8()),
            "accuracy": pa.array([0.5], pa.float32()),
            "accuracy_se": pa.array([0]),
            "n": pa.array([9.0]),
            "more": pa.array(["x"]),
        }
    )
    rows = tables.decode("curves", written(table))
    assert rows.schema.names == [*tables.CURVES.names, "more"]
    assert rows.drop_columns(["more"]).schema == tables.CURVES
    assert rows.to_pylist() == [{**CURVE, "more": "x"}]


@pytest.mark.parametrize("odd", [["a"], {"a": 1}, b"a", 1, None, "1"])
@pytest.mark.parametrize("name", ["cell_id", "position"])
def test_types_that_say_something_else_are_not(name, odd):
    table = pa.Table.from_pylist([CURVE | {name: odd}])
    fits = (name, odd) == ("position", 1)
    why = ""
    try:
        rows = tables.decode("curves", written(table))
        good, flaws = soundness.sound("curves", {"a.parquet": rows})
        assert bool(good) == fits
        why = str(flaws)
    except tables.TableError as error:
        why = str(error)
    assert fits or name in why or "other cells" in why


def test_rows_that_cannot_be_cost_their_cell_and_no_other():
    rows = [CURVE | {"cell_id": c, "position": p} for c in "abcd" for p in (1, 2)]
    rows[2]["n"] = None  # of b
    rows[4]["accuracy"] = 1.5  # of c
    rows.append(rows[6])  # of d
    table = tables.decode("curves", written(pa.Table.from_pylist(rows)))
    good, why = soundness.sound("curves", {"compact-1.parquet": table})
    assert set(good["compact-1.parquet"]["cell_id"].to_pylist()) == {"a"}
    assert why["compact-1.parquet"] == [
        "n is null (of 1 cells)",
        "accuracy is out of range (of 1 cells)",
        "a row of it is there twice (of 1 cells)",
    ]


# --- links and kinds of files ---


def test_a_linked_table_survives_being_merged(fuzzer, tree, tmp_path):
    os.rename(tree / "cells", tmp_path / "elsewhere")
    (tree / "cells").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "notes.txt").write_text("keep")
    before = fuzzer.tables(tree)
    assert fuzzer.call(compact.main, tree)[0] == 0
    assert (tree / "cells").is_symlink()
    names = sorted(os.listdir(tmp_path / "elsewhere"))
    assert [name[:8] for name in names] == ["compact-", "notes.tx"]
    for name, table in fuzzer.tables(tree).items():
        pd.testing.assert_frame_equal(table, before[name])


def test_merging_keeps_what_is_not_ours(fuzzer, tree):
    (tree / "cells" / "notes.txt").write_text("keep")
    (tree / "history" / "mine").mkdir()
    (tree / "history" / "mine" / "more.txt").write_text("keep")
    assert fuzzer.call(compact.main, tree)[0] == 0
    assert (tree / "cells" / "notes.txt").read_text() == "keep"
    assert (tree / "history" / "mine" / "more.txt").read_text() == "keep"
    assert len(list((tree / "cells").glob("*.parquet"))) == 1


def test_nothing_behind_a_link_is_removed(fuzzer, tree, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"1.n{NUMERICS}.ckpt").write_text("keep")
    for name in (".exchange-a", ".exchange-b", ".cells.compact"):
        (tree / name).symlink_to(outside)
    folder = tree / "checkpoints" / CELLS[2].cell_id
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.symlink_to(outside)
    assert fuzzer.call(compact.main, tree)[0] == 0
    assert fuzzer.run(tree)[0] == 0
    assert os.listdir(outside) == [f"1.n{NUMERICS}.ckpt"]
    assert (outside / f"1.n{NUMERICS}.ckpt").read_text() == "keep"


@pytest.mark.parametrize("name", ["cells", "checkpoints", "sweep.yaml", "driver"])
def test_what_is_of_another_kind_is_named_with_the_way_out(fuzzer, tree, name):
    os.rename(tree / name, tree.parent / "aside")
    (tree / name).write_text("x") if "." not in name and name != "driver" else (tree / name).mkdir()
    for main, *more in ((status.main, tree), (compact.main, tree)):
        ended, said = fuzzer.call(main, *more)
        assert ended == 1
        assert f"{tree / name} is not a f" in said
        assert "move it away" in said
    ended, said = fuzzer.run(tree)
    assert ended == 1
    assert "move it away" in said


def test_a_folder_in_a_files_place_is_set_aside(fuzzer, tree):
    path = tree / "cells" / f"{CELLS[2].cell_id}.parquet"
    (path / "inside").mkdir(parents=True)
    assert fuzzer.run(tree)[0] == 0
    assert path.is_file()
    assert (tree / "cells" / f"_{path.name}.damaged" / "inside").is_dir()


def test_a_footer_holds_nothing_about_values_that_pages_do_not():
    """Pages have checksums, footers have none, and readers believe the statistics in them."""
    rows = pa.Table.from_pylist([{"cell_id": "a", "step": 1}], schema=tables.HISTORY)
    with pq.ParquetFile(io.BytesIO(tables.encode(rows))) as file:
        group = file.metadata.row_group(0)
        assert all(not group.column(i).is_stats_set for i in range(group.num_columns))
