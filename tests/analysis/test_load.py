"""Reading a sweep's tables: whole, torn, merged, grown, absent."""

from __future__ import annotations

import shutil
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaphase.analysis import load
from metaphase.core import schema
from metaphase.core.cell import SETTINGS, Cell
from metaphase.sweeps.store.table_files import TableFiles
from tests.tools.synthetic import make_results


@pytest.fixture
def sweep(tmp_path):
    make_results(tmp_path / "small", (8, 16), (1, 16, 256), (0, 1))
    return tmp_path / "small"


def files(sweep, table="cells"):
    return sorted((sweep / table).glob("*.parquet"))


def rewrite(path, **changes):
    """The same row with other values."""
    pq.write_table(pa.Table.from_pylist([pq.read_table(path).to_pylist()[0] | changes]), path)


def test_synthetic_results_have_the_columns_that_workers_write(sweep):
    from metaphase.sweeps.store import tables

    for table, columns in (
        ("cells", tables.CELLS.names),
        ("history", tables.HISTORY.names),
        ("curves", tables.CURVES.names),
    ):
        assert set(pq.read_schema(files(sweep, table)[0]).names) == set(columns)


def test_a_row_a_cell_with_every_setting_and_result(sweep):
    cells = load.load_cells(sweep)
    assert len(cells) == cells["cell_id"].nunique() == 12
    assert {*SETTINGS, *schema.CELL_RESULT_COLUMNS} < {*cells}
    order = cells[["model_size", "num_tasks", "seed"]].apply(tuple, axis=1)
    assert list(order) == sorted(order)
    row = pa.Table.from_pandas(cells.iloc[[3]]).to_pylist()[0]
    settings = {name: row[name] for name in SETTINGS}
    assert Cell.from_dict(settings).cell_id == row["cell_id"]


def test_history_and_curves_hold_each_cell_and_split(sweep):
    history, curves = load.load_history(sweep), load.load_curves(sweep)
    assert list(history.columns) == list(schema.HISTORY_COLUMNS)
    assert list(curves.columns) == list(schema.CURVES_COLUMNS)
    assert (history.groupby(["cell_id", "split"])["step"].max() == 1000).all()
    positions = curves.groupby(["cell_id", "split"])["position"]
    assert len(positions) == 12 * 3
    assert (positions.min() == 1).all()
    assert (positions.size() == 16).all()


def test_uri_and_path_give_the_same(sweep):
    assert load.load_cells(f"file://{sweep}").equals(load.load_cells(sweep))
    assert load.load_cells(f"{sweep}/").equals(load.load_cells(sweep))


@pytest.mark.parametrize("damage", ["empty", "cut", "no parquet", "other columns"])
def test_an_unusable_file_is_named_and_skipped(sweep, damage):
    bad = files(sweep)[4]
    if damage == "other columns":
        pq.write_table(pa.table({"cell_id": ["x"]}), bad)
    else:
        content = {"empty": b"", "cut": bad.read_bytes()[:-100], "no parquet": b"x" * 5000}
        bad.write_bytes(content[damage])
    with pytest.warns(load.ResultsWarning, match=f"cells/{bad.name}") as caught:
        cells = load.load_cells(sweep)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert len(cells) == 11
    assert bad.stem not in set(cells["cell_id"])


def test_a_file_whose_types_dont_fit_is_named_and_skipped(sweep):
    bad = files(sweep)[4]
    rewrite(bad, model_size="wide")
    with pytest.warns(load.ResultsWarning, match=bad.name):
        assert len(load.load_cells(sweep)) == 11


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("num_tasks", 0, False),
        ("num_tasks", 2**62, False),
        ("num_tasks", 2**32, True),
        ("model_size", -5, False),
        ("seed", 2**40, False),
        ("learning_rate", 0.0, False),
        ("learning_rate", float("inf"), False),
        ("adam_beta1", 1.0, False),
        ("num_heads", 0, True),  # of an architecture without heads
        ("image_size", 0, True),  # of a family without images
    ],
)
def test_a_cell_with_a_setting_out_of_its_bounds_is_named_and_skipped(sweep, name, value, fits):
    bad = files(sweep)[4]
    rewrite(bad, **{name: value})
    if fits:
        assert len(load.load_cells(sweep)) == 12
        return
    with pytest.warns(load.ResultsWarning, match=f"{bad.name}: {name} is out of range"):
        assert len(load.load_cells(sweep)) == 11


def test_files_in_the_making_are_not_read(sweep):
    for name in (".half.parquet", "_half.parquet", "half.parquet.tmp"):
        (sweep / "cells" / name).write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not even warned about
        assert len(load.load_cells(sweep)) == 12


def test_a_setting_added_later_is_null_in_older_files(sweep):
    new = files(sweep)[0]
    rewrite(new, dropout=0.5, learning_rate=1)  # a new field; a whole number for a real one
    cells = load.load_cells(sweep).set_index("cell_id")
    assert cells.loc[new.stem, "dropout"] == 0.5
    assert cells["dropout"].isna().sum() == 11
    assert cells.loc[new.stem, "learning_rate"] == 1.0


@pytest.mark.parametrize("table", ["cells", "curves"])
def test_a_cells_own_file_wins_over_merged_ones(sweep, table):
    """Merged files hold all cells; some cells also have their own file, with other numbers."""
    own = files(sweep, table)
    whole = pa.concat_tables([pq.read_table(f) for f in own])

    def with_n(value):
        at = whole.schema.get_field_index("n")
        return whole.set_column(at, "n", pa.array([value] * whole.num_rows))

    pq.write_table(with_n(1), sweep / table / "compact-0001.parquet")
    pq.write_table(with_n(2), sweep / table / "compact-0002.parquet")
    for file in own[3:]:
        file.unlink()
    frame = load.load_cells(sweep) if table == "cells" else load.load_curves(sweep)
    assert len(frame) == whole.num_rows
    n = frame.groupby("cell_id")["n"].unique()
    assert all(list(n[f.stem]) == [512] for f in own[:3])
    assert all(list(n[f.stem]) == [2] for f in own[3:])


def test_without_history_or_curves_they_are_empty(sweep):
    for table, read in (("history", load.load_history), ("curves", load.load_curves)):
        shutil.rmtree(sweep / table)
        frame = read(sweep)
        assert frame.empty
        assert "cell_id" in frame


def test_nothing_to_read_is_one_clear_line(sweep, tmp_path):
    cases = {
        tmp_path / "absent": "no such folder",
        tmp_path: "it holds the sweeps small",
        sweep / "cells": "not a sweep's folder",
        files(sweep)[0]: "ot a directory|annot list|not a sweep's folder",
        "nothing://here/at/all": "nothing",
    }
    for path, message in cases.items():
        with pytest.raises(load.ResultsError, match=message) as error:
            load.load_cells(path)
        assert "\n" not in str(error.value)
    for file in files(sweep):
        file.unlink()
    with pytest.raises(load.ResultsError, match="no finished cells"):
        load.load_cells(sweep)
    shutil.rmtree(sweep / "cells")  # as a sweep that has just begun
    with pytest.raises(load.ResultsError, match="no finished cells"):
        load.load_cells(sweep)
    (sweep / "cells").mkdir()
    (sweep / "cells" / "torn.parquet").write_bytes(b"torn")
    with (
        pytest.warns(load.ResultsWarning, match=r"torn\.parquet"),
        pytest.raises(load.ResultsError, match="none of 1 Parquet files"),
    ):
        load.load_cells(sweep)


def test_a_file_that_vanishes_while_reading_is_looked_for_again(sweep, monkeypatch):
    """A cell is merged between the listing and the reading of its own file."""
    listed = TableFiles.names
    victim = files(sweep)[0]

    def list_then_merge(*arguments):
        names = listed(*arguments)
        if victim.exists():
            victim.rename(victim.with_name("compact-1.parquet"))
        return names

    monkeypatch.setattr(TableFiles, "names", list_then_merge)
    assert victim.stem in set(load.load_cells(sweep)["cell_id"])
