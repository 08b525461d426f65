"""The results tree: whole files or none, no row twice, nothing executed, damage named."""

import hashlib
import io
import logging
import os
import pickle
import re
import shutil
import threading

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from metaphase.analysis.load import load_history
from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell, ConfigError
from metaphase.core.tasks import TASK_FAMILIES
from metaphase.sweeps.commands import compact
from metaphase.sweeps.store import tables
from metaphase.sweeps.store.checkpoints import MAGIC
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings
from tests import ROOT

CELL = Cell(steps=10, unseen_datasets=("MNIST",), image_size=8)
ID = CELL.cell_id


@pytest.fixture(params=["path", "uri"])
def results(request, tmp_path):
    root = str(tmp_path / "root")
    return Results(root if request.param == "path" else f"file://{root}", "sweep")


def history(steps=(5, 10), cell_id=ID):
    statistics = dict.fromkeys(schema.HISTORY_COLUMNS[3:-1], 0.5)
    return [
        {"cell_id": cell_id, "step": step, "split": split, **statistics, "n": 512}
        for step in steps
        for split in schema.SPLITS
    ]


def curves():
    return [
        {"cell_id": ID, "split": "seen", "position": p, "accuracy": 0.5, "accuracy_se": 0.1, "n": 9}
        for p in (1, 2)
    ]


def row(cell=CELL, **values):
    statistics = dict.fromkeys(schema.statistics_columns(schema.SPLITS), 0.5)
    numbers = {"chance": 0.1, "n": 512, "numerics": NUMERICS, **statistics}
    return {**cell.to_dict(), "cell_id": cell.cell_id, "status": schema.DONE, **numbers, **values}


def complete(cell):
    """What a trained cell is finished with: its row, its history, its curves."""
    steps = [*range(cell.eval_every, cell.steps, cell.eval_every), cell.steps]
    told = {"cell_id": cell.cell_id, "n": 9, **dict.fromkeys(schema.HISTORY_COLUMNS[3:-1], 0.5)}
    rows = [{**told, "step": k, "split": s} for k in steps for s in cell.splits]
    told = {"cell_id": cell.cell_id, "n": 9, "accuracy": 0.5, "accuracy_se": 0.1}
    points = [
        {**told, "split": s, "position": 1 + t}
        for s in cell.splits
        for t in range(cell.sequence_length)
    ]
    return row(cell, steps_trained=cell.steps), rows, points


def state(step, cell_id=ID):
    return {"cell_id": cell_id, "step": step, "w": torch.arange(5.0) + step, "history": history()}


def files(results, folder):
    path = results.local_path / folder
    return sorted(os.listdir(path)) if path.exists() else []


def test_a_result_is_read_as_the_readme_says(results):
    results.write_result(row(seen_first=0.25), history(), curves())
    cells = pd.read_parquet(results.local_path / "cells")
    assert len(cells) == 1
    first = cells.iloc[0]
    assert (first.cell_id, first.sweep, first.seen_first) == (ID, "sweep", 0.25)
    assert first.unseen_datasets == "MNIST"
    assert set(cells.columns) == {"cell_id", "sweep", *CELL.to_dict(), *schema.CELL_RESULT_COLUMNS}
    counted = duckdb.sql(
        f"select count(*) from read_parquet('{results.local_path}/history/*.parquet')"
    ).fetchall()
    assert counted == [(6,)]
    assert len(pd.read_parquet(results.local_path / "curves")) == 2


def test_types_do_not_depend_on_what_is_null(results):
    other = Cell(steps=20)
    results.write_result(row(), [], [])
    results.write_failure(other, "it broke")
    assert not results.is_trained(other.cell_id)
    third = row(Cell(steps=30), diverged_at=3, versions={"torch": "2"})
    results.write_result(third, history(), curves())
    for folder, expected in (
        ("cells", tables.CELLS),
        ("history", tables.HISTORY),
        ("curves", tables.CURVES),
    ):
        for name in files(results, folder):
            assert pq.read_schema(results.local_path / folder / name).equals(expected)
    assert results.finished() == {
        ID: schema.DONE,
        other.cell_id: schema.FAILED,
        third["cell_id"]: schema.DONE,
    }
    assert results.read_rows([other.cell_id, "missing"])[0]["error"] == "it broke"


def test_what_is_finished_is_never_replaced(results):
    results.write_result(row(wall_seconds=1.0), history(), curves())
    results.checkpoints.write(state(5))
    results.write_result(row(wall_seconds=2.0), history((5,)), curves()[:1])
    results.write_failure(CELL, "it broke")
    assert pd.read_parquet(results.local_path / "cells").wall_seconds.tolist() == [1.0]
    assert len(pd.read_parquet(results.local_path / "history")) == 6
    assert len(pd.read_parquet(results.local_path / "curves")) == 2
    assert files(results, "cells") == [f"{ID}.parquet"]
    assert files(results, "checkpoints") == []


def half_trained(results):
    return results.local_path / f"checkpoints/{ID}/history.parquet"


def test_the_history_of_an_unfinished_cell_is_replaced(results):
    for steps in ((5,), (5, 10)):
        results.checkpoints.write_history(ID, history(steps))
    assert len(pd.read_parquet(half_trained(results))) == 6
    assert len(load_history(str(results))) == 6
    assert files(results, "history") == []
    results.write_result(row(), history((5, 10, 15)), curves())
    assert not half_trained(results).exists()
    results.checkpoints.write_history(ID, history((5,)))  # late
    assert len(load_history(str(results))) == 9


def test_a_cell_is_finished_only_once_everything_of_it_is_there(results, monkeypatch):
    results.checkpoints.write(state(5))
    create = results.create

    def fail_at_cells(path, data):
        if path.startswith("cells/"):
            raise OSError("disk full")
        create(path, data)

    monkeypatch.setattr(results, "create", fail_at_cells)
    with pytest.raises(OSError, match="disk full"):
        results.write_result(row(), history(), curves())
    assert results.finished() == {}
    assert results.checkpoints.steps() == {ID: 5}
    monkeypatch.undo()
    results.write_result(row(), history(), curves())
    assert results.finished() == {ID: schema.DONE}
    assert results.is_trained(ID)
    assert results.checkpoints.steps() == {}
    assert files(results, "checkpoints") == []


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    results = Results(str(tmp_path), "sweep")
    results.checkpoints.write(state(5))
    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patched:

            def fail(*args):
                raise OSError(28, "No space left on device")

            patched.setattr(os, broken, fail)
            with pytest.raises(OSError, match="No space"):
                results.checkpoints.write(state(5) | {"more": 1})
    assert files(results, f"checkpoints/{ID}") == ["5.n2.ckpt"]
    assert "more" not in results.checkpoints.read(ID)


def test_a_reader_never_sees_half_a_file(tmp_path):
    results = Results(str(tmp_path), "sweep")
    results.checkpoints.write_history(ID, history())
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for steps in (range(1), range(200)):
                results.checkpoints.write_history(ID, history(steps))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert len(load_history(str(results))) in (3, 6, 600)
    finally:
        stop.set()
        writer.join()


def test_checkpoints_come_back_and_the_last_two_are_kept(results):
    assert results.checkpoints.read(ID) is None
    for step in (5, 100, 20):
        results.checkpoints.write(state(step))
    assert results.checkpoints.steps() == {ID: 100}
    results.checkpoints.write(state(200))
    assert files(results, f"checkpoints/{ID}") == ["100.n2.ckpt", "200.n2.ckpt"]
    read = results.checkpoints.read(ID)
    assert torch.equal(read.pop("w"), state(200).pop("w"))
    assert read == {k: v for k, v in state(200).items() if k != "w"}
    results.checkpoints.remove(ID)
    results.checkpoints.remove("never-there")
    assert results.checkpoints.read(ID) is None


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "other cell", "not ours"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(results, damage, caplog):
    results.checkpoints.write(state(5))
    results.checkpoints.write(state(10))
    path = results.local_path / f"checkpoints/{ID}/10.n2.ckpt"
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    results.checkpoints.write(state(10, cell_id="0" * 16))
    other = (results.local_path / f"checkpoints/{'0' * 16}/10.n2.ckpt").read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": data[:-100],
            "flipped": bytes(flipped),
            "other cell": other,
            "not ours": b"\x80\x04junk\nmore",
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert results.checkpoints.read(ID)["step"] == 5
    assert f"checkpoints/{ID}/10.n2.ckpt is removed" in caplog.text


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("/tmp/metaphase-trap",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_nothing_in_a_checkpoint_is_executed(results, dump):
    buffer = io.BytesIO()
    dump({"cell_id": ID, "step": 5, "x": Trap()}, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest().encode()
    results.put(f"checkpoints/{ID}/5.n2.ckpt", MAGIC + digest + b"\n" + payload)
    assert results.checkpoints.read(ID) is None
    assert not os.path.exists("/tmp/metaphase-trap")


@pytest.mark.parametrize("damage", [b"", b"PAR1", "truncated", "other"])
def test_a_damaged_result_is_named_and_counts_as_missing(results, damage, caplog):
    other = Cell(steps=20)
    results.write_result(row(), history(), curves())
    results.write_result(row(other), history(), curves())
    path = results.local_path / f"cells/{ID}.parquet"
    if damage == "truncated":
        damage = path.read_bytes()[:-10]
    elif damage == "other":
        damage = (results.local_path / f"cells/{other.cell_id}.parquet").read_bytes()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert results.finished() == {other.cell_id: schema.DONE}
    assert f"cells/{ID}.parquet" in caplog.text
    assert not results.is_trained(ID)


def test_the_sweep_belongs_to_the_driver_that_claimed_it_last(results):
    results.claim.take("a")
    assert results.claim.is_held_by("a")
    results.claim.take("b")
    assert not results.claim.is_held_by("a")
    results.claim.release()
    assert not results.claim.is_held_by("b")


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".x", "", "a b", "x" * 101, "a\n"])
def test_names_cannot_leave_the_root(tmp_path, name):
    with pytest.raises(ConfigError, match="can't name a sweep"):
        Results(str(tmp_path), name)


def test_a_tree_is_read_by_whatever_name_it_has(tmp_path):
    named = Results(str(tmp_path), "sweep")
    for name in ("sweep (1)", ".kept", "x" * 101, "ünï"):
        named.local_path.mkdir()
        named.put("sweep.yaml", b"text")
        shutil.move(named.local_path, tmp_path / name)
        assert Results.at(str(tmp_path / name)).get("sweep.yaml") == b"text"


def test_roots_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match="root: can't use nosuch://bucket"):
        Results("nosuch://bucket", "sweep")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="root: can't write to"):
        Results(str(tmp_path / "file"), "sweep").check_writable()


@pytest.mark.parametrize("root", ["s3://name:geheim@bucket/here", "nosuch://name:geheim@bucket"])
def test_a_uri_with_credentials_is_refused_without_being_shown(root):
    for make in (lambda: Results(root, "sweep"), lambda: Results.at(f"{root}/sweep")):
        with pytest.raises(ConfigError, match="set environment variables") as refused:
            make()
        assert "geheim" not in str(refused.value)


def test_nothing_of_a_driver_stays_once_it_has_released_the_sweep(results):
    lease = acquire(results)
    write_settings(results, {})
    assert (results.local_path / ".writing").is_dir()
    lease.release()
    assert sorted(os.listdir(results.local_path)) == ["driver", "sweep.yaml"]


def test_settings_are_a_preset_again(results):
    from metaphase.sweeps.preset import load_preset

    sweep = load_preset("quickstart", ["name=sweep", "seed=3"])
    write_settings(results, sweep.settings)
    assert load_preset(str(results.local_path / "sweep.yaml")) == sweep


def test_a_results_tree_of_an_object_store(s3, monkeypatch):
    """No local path, no folders: what S3 and its kin are like (moto serves one on loopback)."""
    client, address = s3
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    root = f"s3://bucket/here?scheme=http&endpoint_override={address}&region=us-east-1"
    results = Results(root, "sweep")
    assert results.local_path is None
    assert results.finished() == {}
    results.check_writable()
    results.claim.take("a")
    assert results.claim.is_held_by("a")
    results.checkpoints.write(state(5))
    results.checkpoints.write(state(10))
    results.checkpoints.write(state(15))
    assert results.checkpoints.steps() == {ID: 15}
    assert results.checkpoints.read(ID)["step"] == 15
    results.write_result(row(), history(), curves())
    assert results.finished() == {ID: schema.DONE}
    assert results.checkpoints.steps() == {}
    keys = [o["Key"] for o in client.list_objects_v2(Bucket="bucket")["Contents"]]
    assert f"here/sweep/cells/{ID}.parquet" in keys


LONG = Cell(steps=1000, image_size=8)
LAYOUTS = {
    "as it is": (lambda rows: rows, lambda points: points),
    "the last evaluation": (lambda rows: rows[:-3], lambda points: points),
    "an evaluation in between": (lambda rows: rows[:3] + rows[6:], lambda points: points),
    "a row": (lambda rows: rows[:4] + rows[5:], lambda points: points),
    "a split": (lambda rows: [r for r in rows if r["split"] != "seen"], lambda points: points),
    "all evaluations": (lambda rows: [], lambda points: points),
    "a position": (lambda rows: rows, lambda points: points[:-1]),
    "the last positions": (
        lambda rows: rows,
        lambda points: [p for p in points if p["position"] < LONG.sequence_length],
    ),
    "a curve": (lambda rows: rows, lambda points: points[: -LONG.sequence_length]),
}


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("lost", LAYOUTS)
def test_tables_that_lack_rows_are_found(tmp_path, monkeypatch, lost, merged):
    monkeypatch.setattr(compact, "LISTING_SECONDS", 0.0)
    results = Results(str(tmp_path), "sweep")
    for cell in (CELL, LONG):
        made, rows, points = complete(cell)
        if cell == LONG:
            shorten_rows, shorten_points = LAYOUTS[lost]
            rows, points = shorten_rows(rows), shorten_points(points)
        results.write_result(made, rows, points)
    if merged:
        lease = acquire(results)
        compact.compact(results, lease)
        lease.release()
    ids = {CELL.cell_id, LONG.cell_id}
    damaged = results.damaged(ids)
    assert damaged == (set() if lost == "as it is" else {LONG.cell_id})
    results.reopen(damaged)
    assert results.finished().keys() == ids - damaged
    results.write_result(*complete(LONG))
    assert results.damaged(ids) == set()


def test_a_cell_without_the_splits_that_it_asks_for_is_found(tmp_path):
    results, cell = Results(str(tmp_path), "sweep"), Cell(in_weights=True)
    made, rows, points = complete(cell)
    results.write_result(made, rows, [p for p in points if p["split"] != schema.IN_CONTEXT])
    assert results.damaged({cell.cell_id}) == {cell.cell_id}
    results.reopen({cell.cell_id})
    results.write_result(made, rows, points)
    assert results.damaged({cell.cell_id}) == set()


def test_the_readme_lists_every_column():
    text = (ROOT / "results" / "README.md").read_text()
    sections = dict(zip(("cells", "history", "curves"), text.split("\n## ")[1:], strict=False))
    for name, table in (
        ("cells", tables.CELLS),
        ("history", tables.HISTORY),
        ("curves", tables.CURVES),
    ):
        every_cell_has = sections[name].partition("\n### Predictors")[0]
        listed = re.findall(r"^\| ([^|]+) \|", every_cell_has, re.MULTILINE)
        heads = {"column", "---", "*each setting*"}
        columns = {
            column.replace("*split*", split)
            for line in listed
            if line not in heads
            for column in line.split(", ")
            for split in schema.SPLITS
        }
        if name == "cells":
            families = [family for family in TASK_FAMILIES.values() if "@" not in family.name]
            brought = {setting for family in families for setting in family.own}
            assert brought <= columns
            columns -= brought
        assert columns == set(table.names)
