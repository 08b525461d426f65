"""Damaged files: named, never a traceback, and trained anew where they can be."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings

import pandas as pd
import pytest
import torch

from metaphase.analysis import load, phase_plot
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps import run
from metaphase.sweeps.commands import compact, status, yardsticks
from metaphase.sweeps.execution import driver
from metaphase.sweeps.store.checkpoints import MAGIC
from metaphase.sweeps.store.layout import TABLES
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.tables import UNREADABLE, decode
from tests.conftest import small_cell
from tests.tools.tree_fuzzer import train_here

CELLS = [small_cell(num_tasks=n) for n in (1, 4)]
HALF = small_cell(num_tasks=16)
DAMAGES = [
    "truncated",
    *(pytest.param(how, marks=pytest.mark.slow) for how in ("empty", "flipped")),
]


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
    results.checkpoints.write_history(HALF.cell_id, half.history[0])
    results.checkpoints.write(half.states()[0])
    return results


def damage(data: bytes, how: str) -> bytes:
    if how == "empty":
        return b""
    if how == "truncated":
        return data[: len(data) // 2]
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 16]) + data[middle + 16 :]


@pytest.mark.parametrize("how", DAMAGES)
def test_every_file_damaged_one_at_a_time(tmp_path, how, capsys):
    results = write_tree(tmp_path)
    root = tmp_path / "tiny"
    files = [p for p in sorted(root.rglob("*")) if p.suffix in (".parquet", ".ckpt")]
    assert len(files) == 2 * 3 + 1 + 1
    for path in [p for p in files if p.stem != CELLS[1].cell_id]:
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
            assert results.checkpoints.read(HALF.cell_id) is None
        path.write_bytes(data)


PRESET = """
cell: {image_size: 4, num_classes: 5, sequence_length: 8, model_size: 8, key_size: 4, batch_size: 8,
  steps: 20, warmup_steps: 5, eval_every: 10, eval_sequences: 24}
grid: {num_tasks: [1, 4]}
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a command; returns (exit status, what it said on stdout and stderr, log included)."""
    preset = tmp_path / "tiny.yaml"
    preset.write_text(PRESET)
    monkeypatch.setattr(driver, "train", train_here)
    monkeypatch.setattr(driver, "log_to", lambda path: None)
    monkeypatch.setattr(compact, "LISTING_SECONDS", 0.0)

    def call(main, *arguments):
        status = main([str(a) for a in arguments])
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        return status, output.out + output.err

    call.run = lambda: call(run.main, preset, "--root", tmp_path)
    return call


def tables(root):
    return {
        name: pd.read_parquet(root / name)
        .drop(columns="wall_seconds", errors="ignore")
        .sort_values(keys, ignore_index=True)
        for name, keys in (
            ("cells", ["cell_id"]),
            ("history", ["cell_id", "step", "split"]),
            ("curves", ["cell_id", "split", "position"]),
            ("yardsticks", ["split", "yardstick", "position"]),
        )
    }


def reads_as(table, saved, damaged):
    """Whether what a table's file holds is as it was: only its footer's statistics may be hit."""
    try:
        return table in TABLES and decode(table, damaged).equals(decode(table, saved))
    except UNREADABLE:
        return False


@pytest.mark.parametrize("merged", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", DAMAGES)
def test_the_same_command_repairs_every_file(tmp_path, command, caplog, how, merged):
    assert command.run()[0] == 0
    root = tmp_path / "tiny"
    assert command(yardsticks.main, root)[0] == 0
    if merged:
        assert command(compact.main, root)[0] == 0
    before = tables(root)
    files = [p for p in root.rglob("*") if p.is_file() and p.parent.name != "logs"]
    assert len(files) == (3 if merged else 6) + 1 + 2  # a table of yardsticks, sweep.yaml, driver
    for path in files:
        saved = path.read_bytes()
        path.write_bytes(damage(saved, how))
        caplog.clear()
        assert command(status.main, root)[0] == (path.name == "sweep.yaml")
        exit_status, said = command.run()
        assert exit_status == 0, (path, said)
        if how == "flipped" and reads_as(path.parent.name, saved, damage(saved, how)):
            assert "Nothing to do" in said
            path.write_bytes(saved)
        elif path.parent.name in TABLES:
            assert path.name in caplog.text
            assert "of 2 cells to train" in said
        else:
            assert "Nothing to do" in said
        command(yardsticks.main, root)
        for name, table in tables(root).items():
            pd.testing.assert_frame_equal(table, before[name], check_exact=True)
        if merged and not path.exists():
            assert path.with_name(f"_{path.name}.damaged").read_bytes() == damage(saved, how)
            assert command(compact.main, root)[0] == 0
            assert path.exists()  # as it was, or the next would not be what it is about


def test_a_torn_checkpoint_costs_one_interval(tmp_path):
    results = write_tree(tmp_path)
    trainer = PackTrainer([HALF], states=[results.checkpoints.read(HALF.cell_id)])
    trainer.train(5)
    results.checkpoints.write(trainer.states()[0])
    assert results.checkpoints.read(HALF.cell_id)["step"] == 15
    newest = max((tmp_path / "tiny").rglob("*.ckpt"), key=lambda p: p.stem)
    newest.write_bytes(newest.read_bytes()[:-10])
    assert results.checkpoints.read(HALF.cell_id)["step"] == 10


class Evil:
    def __reduce__(self):
        return (exit, (3,))


def test_no_pickle_is_executed(tmp_path):
    results = write_tree(tmp_path)
    [checkpoint] = (tmp_path / "tiny").rglob("*.ckpt")
    checkpoint.write_bytes(pickle.dumps(Evil()))
    assert results.checkpoints.read(HALF.cell_id) is None
    # nor one with a right checksum
    payload = io.BytesIO()
    torch.save({"cell_id": HALF.cell_id, "step": 10, "evil": Evil()}, payload)
    digest = hashlib.sha256(payload.getvalue()).hexdigest().encode()
    checkpoint.write_bytes(MAGIC + digest + b"\n" + payload.getvalue())
    assert results.checkpoints.read(HALF.cell_id) is None
