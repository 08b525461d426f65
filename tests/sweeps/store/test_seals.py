"""What a cell's files say in their seals is what their rows say, and damage breaks a seal."""

import io

import pyarrow.parquet as pq
import pytest

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell
from metaphase.sweeps.store import completeness, seals, table_files
from metaphase.sweeps.store.results import Results
from tests.sweeps.store.test_results import complete

CELL = Cell(unseen_datasets=("random",), eval_every=100, steps=1000)


@pytest.fixture
def results(tmp_path):
    results = Results(str(tmp_path), "sweep")
    results.write_result(*complete(CELL))
    return results


def path_of(results, table):
    return results.local_path / table / f"{CELL.cell_id}.parquet"


def test_seals_say_what_the_rows_say(results):
    facts = {t: seals.facts_of(path_of(results, t).read_bytes()) for t in ("cells", "history")}
    row = pq.read_table(path_of(results, "cells")).to_pylist()[0]
    told = {"table": "cells", "cell_id": CELL.cell_id, "status": schema.DONE}
    names = ("numerics", "unseen_datasets", "in_weights", "eval_every", "eval_growth")
    names += ("steps_trained", "sequence_length")
    names += ("train_loss", "guess_loss", "dataset", "num_classes", "chance")
    assert facts["cells"] == told | {name: row[name] for name in names}
    history = pq.read_table(path_of(results, "history"))
    rows, last, points, splits = facts["history"]["shape"]
    assert (rows, last) == (history.num_rows, max(history["step"].to_pylist()))
    assert (points, splits) == (len(set(history["step"].to_pylist())), len(CELL.splits))


def test_any_changed_byte_breaks_a_seal(results):
    data = path_of(results, "curves").read_bytes()
    assert seals.facts_of(data) is not None
    for i in range(len(data)):
        assert seals.facts_of(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]) is None
        assert seals.facts_of(data[:i]) is None


def test_a_table_written_anew_by_others_has_no_seal(results):
    sink = io.BytesIO()
    pq.write_table(pq.read_table(path_of(results, "history")), sink)
    assert seals.facts_of(sink.getvalue()) is None


def test_sealed_files_are_not_decoded_to_plan(results, monkeypatch):
    ids = {CELL.cell_id}

    def decode(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(table_files, "decode", decode)
    assert results.survey() == ({CELL.cell_id: schema.DONE}, {CELL.cell_id: NUMERICS})
    assert results.damaged(ids) == set()
    for table in ("history", "curves", "cells"):
        path = path_of(results, table)
        data = path.read_bytes()
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        with pytest.raises(AssertionError, match="decoded"):
            results.damaged(ids)
        path.write_bytes(data)


def test_a_seal_counts_only_in_its_own_place(results):
    data = path_of(results, "history").read_bytes()
    name = f"{CELL.cell_id}.parquet"
    assert completeness.sealed_facts("history", name, data)
    assert completeness.sealed_facts("curves", name, data) is None
    assert completeness.sealed_facts("history", "other.parquet", data) is None


@pytest.mark.parametrize("wrong", [{"seen_last": 1.5}, {"seen_last": float("nan")}, {"n": None}])
def test_rows_that_make_no_sense_get_no_seal(tmp_path, wrong):
    results = Results(str(tmp_path), "sweep")
    row, history, curves = complete(CELL)
    results.write_result({**row, **wrong}, history, curves)
    assert seals.facts_of(path_of(results, "cells").read_bytes()) is None
    assert seals.facts_of(path_of(results, "curves").read_bytes())


def test_files_without_seals_are_read_as_before(results):
    for table in ("history", "curves", "cells"):
        path = path_of(results, table)
        pq.write_table(pq.read_table(path), path, use_dictionary=False)
    assert results.damaged({CELL.cell_id}) == set()
    assert results.finished() == {CELL.cell_id: schema.DONE}
