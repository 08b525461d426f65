"""A tree that changes is read anew only where it changed, and as of one moment."""

import random
import shutil

import pytest

from metaphase.analysis.load import load_cells, load_curves, load_history
from metaphase.analysis.serving import tree as trees
from metaphase.analysis.serving.tree import Gone, open_tree
from metaphase.sweeps.commands import compact
from metaphase.sweeps.store.files import StorageError
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.results import Results
from tests.tools import growing


@pytest.fixture
def results(tmp_path):
    made = Results(str(tmp_path), "growing")
    growing.grow(made, random.Random(0), 0.0, cells=4)
    return made


def same(look, path):
    assert look.cells.equals(load_cells(path)[list(look.cells)])
    assert look.history.equals(load_history(path)[list(look.history)])


def test_it_is_what_the_analysis_loads(results):
    tree = open_tree(str(results))
    same(tree.look(), str(results))
    cell_id = load_cells(str(results))["cell_id"][2]
    curves = load_curves(str(results))
    expected = curves[curves["cell_id"] == cell_id].reset_index(drop=True)
    assert tree.curves(cell_id).equals(expected)
    assert tree.curves("f" * 16).empty


def test_only_what_is_new_is_read(results, monkeypatch):
    tree = open_tree(str(results))
    assert tree.look().changed
    read = []
    get = tree.storage.get
    monkeypatch.setattr(tree.storage, "get", lambda path: read.append(path) or get(path))
    assert not tree.look().changed
    assert read == []
    growing.grow(results, random.Random(1), 0.0, cells=1)
    assert tree.look().changed
    assert len(read) == 2  # its row and its history
    same(tree.look(), str(results))


def test_a_history_that_comes_late_or_is_damaged_later_is_seen(results):
    (results.local_path / "history").rename(results.local_path / "later")
    tree = open_tree(str(results))
    assert tree.look().history.empty
    (results.local_path / "later").rename(results.local_path / "history")
    assert tree.look().changed
    same(tree.look(), str(results))
    path = sorted((results.local_path / "history").iterdir())[0]
    path.write_bytes(path.read_bytes()[:100])
    assert path.stem not in set(tree.look().history["cell_id"])
    assert [path.name in note for note in tree.notes] == [True]


def test_merged_deleted_and_rebuilt(results, monkeypatch):
    tree = open_tree(str(results))
    before = tree.look()
    monkeypatch.setattr(compact, "LISTING_SECONDS", 0.0)
    lease = acquire(results)
    compact.compact(results, lease)
    lease.release()
    after = tree.look()
    assert after.cells.equals(before.cells)
    assert tree.curves(before.cells["cell_id"][0]).shape[0] == 3 * 16
    shutil.rmtree(results.local_path)
    with pytest.raises(Gone, match="no such folder"):
        tree.look()
    growing.grow(results, random.Random(2), 0.0, cells=1)
    assert len(tree.look().cells) == 1
    same(tree.look(), str(results))


def test_a_storage_that_fails_leaves_nothing_out(results, monkeypatch):
    tree = open_tree(str(results))
    get, failing = tree.storage.get, [True]

    def sometimes(path):
        if path.startswith("history/") and failing.pop():
            raise StorageError("it is down")
        return get(path)

    monkeypatch.setattr(tree.storage, "get", sometimes)
    with pytest.raises(OSError, match="down"):
        tree.look()
    failing[:] = [False] * 99
    same(tree.look(), str(results))


def test_a_cell_that_vanishes_while_it_is_read_is_not_half_there(results, monkeypatch):
    tree = open_tree(str(results))
    first = sorted((results.local_path / "cells").iterdir())[0]
    get = tree.storage.get

    def vanishing(path):
        if path.startswith("history/") and first.exists():
            first.unlink()  # as `metaphase run --force` does, in the middle of a look
        return get(path)

    monkeypatch.setattr(tree.storage, "get", vanishing)
    look = tree.look()
    assert first.stem not in set(look.cells["cell_id"])
    assert len(look.cells) == 3
    monkeypatch.setattr(trees, "LOOKS", 0)
    with pytest.raises(trees.ResultsError, match="change while they are read"):
        tree.look()


def test_a_damaged_file_is_named_until_it_is_mended(results):
    tree = open_tree(str(results))
    path = sorted((results.local_path / "cells").iterdir())[0]
    data = path.read_bytes()
    path.write_bytes(data[:100])
    assert len(tree.look().cells) == 3
    assert [path.name in note for note in tree.notes] == [True]
    path.write_bytes(data)
    assert len(tree.look().cells) == 4
    assert not tree.notes
