"""Damaged files: named, never a traceback, and trained anew where they can be."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings

import pytest
import torch

from analysis import load, phase_plot
from core.trainer import PackTrainer
from sweeps import storage
from sweeps.storage import Results
from tests.conftest import small_cell

CELLS = [small_cell(num_tasks=n) for n in (1, 4)]
HALF = small_cell(num_tasks=16)


def write_tree(root):
    """Two finished cells, and one with a checkpoint at half of its steps."""
    results = Results(str(root), "tiny")
    trainer = PackTrainer(CELLS)
    while not trainer.finished:
        trainer.advance()
    for (row, curves), history in zip(trainer.results(), trainer.history, strict=True):
        results.write_result(row, history, curves)
    half = PackTrainer([HALF])
    half.advance()
    results.write_history(HALF.cell_id, half.history[0])
    results.write_checkpoint(half.states()[0])
    return results


def damage(data: bytes, how: str) -> bytes:
    if how == "empty":
        return b""
    if how == "truncated":
        return data[: len(data) // 2]
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 16]) + data[middle + 16 :]


@pytest.mark.parametrize("how", ["empty", "truncated", "flipped"])
def test_every_file_damaged_one_at_a_time(tmp_path, how, capsys):
    results = write_tree(tmp_path)
    root = tmp_path / "tiny"
    files = [p for p in sorted(root.rglob("*")) if p.suffix in (".parquet", ".ckpt")]
    assert len(files) == 2 * 3 + 1 + 1
    for path in files:
        data = path.read_bytes()
        path.write_bytes(damage(data, how))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for read in (load.load_cells, load.load_history, load.load_curves):
                read(str(root))
        said = " ".join(str(w.message) for w in caught)
        status = phase_plot.main([str(root), "--out", str(tmp_path / "out")])
        output = capsys.readouterr()
        assert status == 0
        assert "Traceback" not in output.out + output.err
        finished = results.finished()
        if path.parent.name == "cells":
            if path.stem in finished:  # flipped bits may leave what is read there as it was
                assert how == "flipped"
            else:
                assert path.name in said
        else:
            assert set(finished) == {cell.cell_id for cell in CELLS}
        if path.suffix == ".ckpt":
            assert results.read_checkpoint(HALF.cell_id) is None
        path.write_bytes(data)


def test_a_damaged_cell_is_trained_anew_and_is_what_it_was(tmp_path):
    results = write_tree(tmp_path)
    path = tmp_path / "tiny" / "cells" / f"{CELLS[1].cell_id}.parquet"
    [before] = results.read_rows([CELLS[1].cell_id])
    path.write_bytes(damage(path.read_bytes(), "truncated"))
    missing = [cell for cell in CELLS if cell.cell_id not in results.finished()]
    assert missing == [CELLS[1]]
    trainer = PackTrainer(missing)
    while not trainer.finished:
        trainer.advance()
    [(row, curves)] = trainer.results()
    results.write_result(row, trainer.history[0], curves)
    [after] = results.read_rows([CELLS[1].cell_id])
    assert {k: v for k, v in after.items() if k != "wall_seconds"} == {
        k: v for k, v in before.items() if k != "wall_seconds"
    }


def test_a_torn_checkpoint_costs_one_interval(tmp_path):
    results = write_tree(tmp_path)
    trainer = PackTrainer([HALF], states=[results.read_checkpoint(HALF.cell_id)])
    trainer.train(5)
    results.write_checkpoint(trainer.states()[0])
    assert results.read_checkpoint(HALF.cell_id)["step"] == 15
    newest = max((tmp_path / "tiny").rglob("*.ckpt"), key=lambda p: p.stem)
    newest.write_bytes(newest.read_bytes()[:-10])
    assert results.read_checkpoint(HALF.cell_id)["step"] == 10


class Evil:
    def __reduce__(self):
        return (exit, (3,))


def test_no_pickle_is_executed(tmp_path):
    results = write_tree(tmp_path)
    [checkpoint] = (tmp_path / "tiny").rglob("*.ckpt")
    checkpoint.write_bytes(pickle.dumps(Evil()))
    assert results.read_checkpoint(HALF.cell_id) is None
    # nor one with a right checksum
    payload = io.BytesIO()
    torch.save({"cell_id": HALF.cell_id, "step": 10, "evil": Evil()}, payload)
    digest = hashlib.sha256(payload.getvalue()).hexdigest().encode()
    checkpoint.write_bytes(storage._MAGIC + digest + b"\n" + payload.getvalue())
    assert results.read_checkpoint(HALF.cell_id) is None
