"""Equal sequences share a table, and the command computes what is missing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pandas as pd

from metaphase.core import schema
from metaphase.sweeps.commands import yardsticks as command
from metaphase.sweeps.store.results import Results
from metaphase.training import Sweep, run
from tests.conftest import small_cell
from tests.docs import write_plug_ins
from tests.tools.synthetic import make_results

CELL = small_cell(sequence_length=16, eval_sequences=40, unseen_datasets=["digits", "random"])


def test_cells_that_share_sequences_share_a_table():
    cells = [
        replace(CELL, model_size=size, num_tasks=n, seed=seed)
        for size in (8, 16)
        for n in (1, 64)
        for seed in (0, 1)
    ]
    tables = command.tables(cells)
    assert sorted((c.seed, split) for c, split in tables.values()) == [
        (seed, f"unseen{s}") for seed in (0, 1) for s in ("", "/digits", "/random")
    ]
    assert len(command.tables([CELL, replace(CELL, eval_sequences=41)])) == 6


def test_the_command_computes_what_is_missing(tmp_path, capsys):
    path = tmp_path / "results" / "s"
    make_results(path, (8, 16), (1, 16), (0,), base=CELL)
    (path / "cells" / "torn.parquet").write_bytes(b"PAR1")
    assert command.main([str(path)]) == 0
    assert "3 of 3 tables to compute" in capsys.readouterr().out
    table = pd.read_parquet(path / "yardsticks")
    assert tuple(table.columns) == schema.YARDSTICK_COLUMNS
    assert not table.duplicated(["seed", "split", "yardstick", "position"]).any()
    assert len(table) == 3 * 6 * 16
    assert (table["n"] == 40).all()
    assert command.main([str(path)]) == 0
    assert "0 of 3 tables to compute" in capsys.readouterr().out
    assert Results(str(tmp_path / "results"), "s").yardstick_keys() == {
        file.stem for file in (path / "yardsticks").iterdir()
    }


def test_no_sweep_there_is_one_line(tmp_path, capsys):
    assert command.main([str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_no_sweep_is_told_before_torch_is_loaded(tmp_path):
    code = (
        "import sys; from metaphase.sweeps.commands import yardsticks; "
        f"assert yardsticks.main([{str(tmp_path / 'nothing')!r}]) == 1; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
    assert done.stderr.endswith("nothing: no such folder\n")


def trained(folder, **cell):
    """The place of a sweep of one cell that names a plug-in, in a tree of its own."""
    small = {
        "steps": 2,
        "eval_sequences": 8,
        "batch_size": 8,
        "sequence_length": 4,
        "num_layers": 1,
    }
    sweep = Sweep(name="s", cell={**small, "model_size": 8, "num_heads": 1, **cell})
    run(sweep, root=folder / "results", progress=False)
    return folder / "results" / "s"


def command_line(*arguments):
    """(status, what it prints and says) in a process that knows no plug-in."""
    code = "import sys; from metaphase.sweeps.commands import yardsticks as y; sys.exit(y.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_an_architecture_of_the_user_s_needs_no_code(tmp_path):
    path = trained(tmp_path, architecture=f"{write_plug_ins(tmp_path)['gated.py']}:GatedRecurrence")
    (path / "plugins").rename(tmp_path / "elsewhere")
    status, said = command_line(path)
    assert (status, said.count("is left out")) == (0, 0), said
    assert "1 of 1 tables to compute" in said


def test_a_family_of_the_user_s_is_named_by_the_command(tmp_path):
    file = write_plug_ins(tmp_path)["coins.py"]
    path = trained(tmp_path, task_family=f"{file}:Coins", token_format="shifted")
    status, said = command_line(path)
    assert (status, said.count("\n")) == (1, 1)
    assert "runs where you name it: --plug-in " in said
    kept = said.strip().rpartition(" ")[2]
    assert str(path / "plugins") in kept
    assert not (path / "yardsticks").exists()
    status, said = command_line(path, "--plug-in", f"{file}:Other")
    assert status == 1
    assert "the file has no Other" in said
    for named in (f"{file}:Coins", kept):
        status, said = command_line(path, "--plug-in", named)
        assert status == 0, said
    assert len(list((path / "yardsticks").iterdir())) == 1
