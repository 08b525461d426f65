"""Results trees of earlier programs are read, plotted and, where numerics allow, continued.

`trees/<commit>` is what the program of that commit wrote for a grid of 2 widths x 2 numbers of
tasks: 550503d is of numerics 1 and knew neither `normalization` nor `mup_base_width`; 540735c is of
numerics 2 and has merged its files. Neither has numerics in its identities.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaphase.analysis import load, phase_plot
from metaphase.core.cell import NUMERICS, Cell
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps import run
from metaphase.sweeps.commands import compact, status
from metaphase.sweeps.store import earlier
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import read_sweep
from tests.tools.tree_fuzzer import in_process

TREES = Path(__file__).parent / "trees"
OTHER, SAME = "550503d", "540735c"  # numerics than this program's


@pytest.fixture
def tree(request, tmp_path):
    with in_process():
        yield shutil.copytree(TREES / request.param, tmp_path / "results" / "small")


both = pytest.mark.parametrize("tree", [OTHER, SAME], indirect=True)
other = pytest.mark.parametrize("tree", [OTHER], indirect=True)
same = pytest.mark.parametrize("tree", [SAME], indirect=True)


def call(main, *arguments):
    """(exit status, what was printed and logged)."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            ended = main([str(a) for a in arguments])
    finally:
        logging.getLogger().removeHandler(handler)
    assert "Traceback" not in out.getvalue(), out.getvalue()
    return ended, out.getvalue()


def go_on(tree, *more):
    """`metaphase run` with the preset that the tree holds."""
    return call(run.main, tree / "sweep.yaml", "--root", tree.parent, *more)


def stored_ids(tree):
    found = [pq.read_table(p, partitioning=None) for p in (tree / "cells").glob("*.parquet")]
    return {cell_id for table in found for cell_id in table["cell_id"].to_pylist()}


@both
def test_its_cells_are_told_by_their_settings(tree):
    sweep, stored = read_sweep(Results.at(str(tree))), stored_ids(tree)
    assert len(stored) == len(sweep.cells) == 4
    assert not {cell.cell_id for cell in sweep.cells} & stored
    assert set(earlier.stored_as(sweep.cells, stored).values()) == stored
    assert {cell.cell_id for cell in Results.at(str(tree)).read_cells()[0]} == {
        cell.cell_id for cell in sweep.cells
    }


@both
def test_it_is_read_and_plotted(tree, tmp_path):
    before = stored_ids(tree)
    cells, history, curves = load.load_cells(tree), load.load_history(tree), load.load_curves(tree)
    assert set(cells["cell_id"]) == set(history["cell_id"]) == set(curves["cell_id"]) == before
    assert set(cells["mup_base_width"]) == {0}
    ended, said = call(phase_plot.main, tree, "--out", tmp_path / "out")
    assert ended == 0, said
    assert list((tmp_path / "out").rglob("*.png"))
    ended, said = call(status.main, tree)
    assert ended == 0
    assert "Finished: no cell of the grid is missing." in said
    assert "not part of this grid" not in said
    revisions = "4 finished cells are of other numerics than this program's, 2."
    assert (revisions in said) == ("numerics" not in cells)


@both
def test_it_is_merged_and_then_read_the_same(tree):
    before = load.load_cells(tree)
    assert call(compact.main, tree)[0] == 0
    assert [p.name.startswith("compact-") for p in (tree / "cells").glob("*.parquet")] == [True]
    assert load.load_cells(tree)[list(before)].equals(before)
    ended, said = call(status.main, tree)
    assert ended == 0
    assert "Finished: no cell of the grid is missing." in said


@same
def test_of_the_same_numerics_only_what_is_new_is_trained(tree):
    before = stored_ids(tree)
    ended, said = go_on(tree)
    assert ended == 0
    assert "Nothing to do: all 4 cells of small are finished." in said
    ended, said = go_on(tree, "--set", "num_tasks=[1,64,16]")
    assert ended == 0, said
    assert "2 of 6 cells to train" in said
    assert "6 of 6 cells are finished" in said
    new = {
        Cell(**{**c.to_dict(), "num_tasks": 16}).cell_id
        for c in read_sweep(Results.at(str(tree))).cells
    }
    assert stored_ids(tree) == before | new
    assert set(load.load_cells(tree)["numerics"]) == {NUMERICS}


@same
def test_a_cell_is_trained_anew_under_its_present_identity(tree):
    sweep = read_sweep(Results.at(str(tree)))
    names = earlier.stored_as(sweep.cells, stored_ids(tree))
    cell = sweep.cells[1]
    expected = load.load_curves(tree).query("cell_id == @names[@cell.cell_id]")
    ended, said = go_on(tree, "--force", cell.cell_id)
    assert ended == 0, said
    assert "1 of 4 cells to train" in said
    assert stored_ids(tree) == {cell.cell_id, *names.values()} - {names[cell.cell_id]}
    again = load.load_curves(tree).query("cell_id == @cell.cell_id")
    assert list(again["accuracy"]) == list(expected["accuracy"])  # the same numbers


@same
def test_a_checkpoint_under_an_earlier_identity_is_continued(tree):
    results = Results.at(str(tree))
    [cell, *_] = read_sweep(results).cells
    old = earlier.stored_as([cell], stored_ids(tree))[cell.cell_id]
    expected = load.load_history(tree).query("cell_id == @old")
    results.remove_results({old})
    half = PackTrainer([cell])
    half.advance()
    [state] = half.states()
    rows = [{**row, "cell_id": old} for row in state["history"]]
    results.checkpoints.write({**state, "cell_id": old, "history": rows})
    [path] = (tree / "checkpoints" / old).glob("*.ckpt")
    path.write_bytes(path.read_bytes().replace(b"metaphase", b"phasesweep", 1))
    assert "1 of the missing cells continue from checkpoints." in call(status.main, tree)[1]
    ended, said = go_on(tree)
    assert ended == 0, said
    assert "1 of 4 cells to train" in said
    assert not (tree / "checkpoints" / old).exists()
    again = load.load_history(tree).query("cell_id == @cell.cell_id")
    assert list(again["loss"]) == list(expected["loss"])


@same
@pytest.mark.parametrize(
    "history",
    [
        lambda rows: [{**row, "n": 10**30} for row in rows],
        lambda rows: [{**row, "cell_id": "x"} for row in rows],
        lambda rows: [5],
        lambda rows: None,
    ],
)
def test_a_checkpoint_under_an_earlier_identity_that_does_not_fit_is_removed(tree, history):
    results = Results.at(str(tree))
    [cell, *_] = read_sweep(results).cells
    old = earlier.stored_as([cell], stored_ids(tree))[cell.cell_id]
    results.remove_results({old})
    half = PackTrainer([cell])
    half.advance()
    [state] = half.states()
    rows = history([{**row, "cell_id": old} for row in state["history"]])
    results.checkpoints.write({**state, "cell_id": old, "history": rows})
    ended, said = go_on(tree)
    assert ended == 0, said
    assert f"checkpoints/{old}/{state['step']}.n{NUMERICS}.ckpt is removed: " in said
    assert not (tree / "checkpoints" / old).exists()


@other
def test_of_other_numerics_nothing_is_mixed_unasked(tree):
    before = stored_ids(tree)
    ended, said = go_on(tree)
    assert ended == 0
    assert "Nothing to do" in said
    assert "4 finished cells are of numerics 1, this program's are 2" in said
    ended, said = go_on(tree, "--set", "num_tasks=[1,64,16]")
    assert ended == 1
    assert "to train 2 more, give --other-numerics renew" in said
    assert stored_ids(tree) == before
    ended, said = go_on(tree, "--set", "num_tasks=[1,64,16]", "--other-numerics", "keep")
    assert ended == 0, said
    assert "2 of 6 cells to train" in said
    assert before < stored_ids(tree)
    with pytest.warns(load.ResultsWarning, match="cells of different numerics are shown together"):
        assert len(load.load_cells(tree)) == 6
    ended, said = go_on(tree, "--other-numerics", "renew")
    assert ended == 0, said
    assert "Removed what was stored of 4 cells" in said
    assert "4 of 6 cells to train" in said
    assert not before & stored_ids(tree)
    cells = load.load_cells(tree)
    assert set(cells["numerics"]) == {NUMERICS}
    assert len(cells) == 6


@same
def test_results_of_these_numerics_are_found_by_a_program_of_the_next(tree, monkeypatch):
    before = stored_ids(tree)
    assert go_on(tree, "--set", "num_tasks=[1,64,16]")[0] == 0
    for module in [m for m in sys.modules.values() if hasattr(m, "NUMERICS")]:
        if module.__name__.startswith("metaphase."):
            monkeypatch.setattr(module, "NUMERICS", NUMERICS + 1)
    ended, said = go_on(tree)
    assert ended == 0
    assert "6 finished cells are of numerics 2, this program's are 3" in said
    assert before < stored_ids(tree)


def test_what_failed_or_is_damaged_is_found_under_an_earlier_identity(tmp_path):
    with in_process():
        tree = shutil.copytree(TREES / OTHER, tmp_path / "small")
        results = Results.at(str(tree))
        names = earlier.stored_as(read_sweep(results).cells, stored_ids(tree))
        failed, torn = list(names.values())[:2]
        path = tree / "cells" / f"{failed}.parquet"
        table = pq.read_table(path, partitioning=None)
        for key, value in (("status", "failed"), ("error", "it was too large")):
            at = table.column_names.index(key)
            table = table.set_column(at, key, pa.array([value]))
        pq.write_table(table, path)
        (tree / "curves" / f"{torn}.parquet").write_bytes(b"PAR1")
        assert f"failed: {failed}: it was too large" in call(status.main, tree)[1]
        ended, said = go_on(tree, "--other-numerics", "keep", "--retry-failed")
        assert ended == 0, said
        assert "2 of 4 cells to train" in said
        left = stored_ids(tree)
        assert not {failed, torn} & left
        assert len(left) == 4
        assert not (tree / "history" / f"{torn}.parquet").exists()
