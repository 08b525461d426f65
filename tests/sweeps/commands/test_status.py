"""How far a sweep is, counted from a tree of all kinds of cells; wrong paths said in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from metaphase.core import schema
from metaphase.sweeps import cli
from metaphase.sweeps.commands import status
from metaphase.sweeps.preset import parse_preset
from metaphase.sweeps.store import seals
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import Round, write_rounds
from metaphase.sweeps.store.sweepfile import read_sweep, write_settings
from tests.docs import write_plug_ins
from tests.sweeps.store.test_results import history, row, state

TEXT = """
description: all kinds
cell: {steps: 100, warmup_steps: 5, image_size: 8}
grid: {model_size: [8, 16], seed: [0, 1, 2, 3, 4]}
"""


@pytest.fixture
def results(tmp_path):
    made = Results(str(tmp_path / "root"), "sweep")
    sweep = parse_preset(TEXT, default_name="sweep")
    write_settings(made, sweep.settings)
    cells = sweep.cells
    made.write_result(row(cells[0]), history(), [])
    made.write_result(row(cells[1], status=schema.DIVERGED), history(), [])
    made.write_failure(cells[2], "it broke")
    made.checkpoints.write(state(50, cells[5].cell_id))
    made.checkpoints.write_history(cells[6].cell_id, history())
    made.write_result(row(cells[0], cell_id="f" * 16), history(), [])  # of another grid
    return made


def counts(out):
    lines = {line.split()[0] + line.split()[1]: line.split()[2:] for line in out.split("\n")[3:5]}
    return {name: [int(n) for n in numbers] for name, numbers in lines.items()}


def test_counts_while_nobody_runs_it(results, capsys):
    assert cli.main(["status", str(results)]) == 0
    out = capsys.readouterr().out
    assert counts(out) == {"transformer8": [5, 1, 1, 1, 0, 2], "transformer16": [5, 0, 0, 0, 0, 5]}
    assert "1 of the missing cells continue from checkpoints" in out
    assert "1 more results in the folder are not part of this grid" in out
    assert "it broke" in out
    assert "Nobody runs it now" in out


def test_counts_while_it_runs(results, capsys):
    lease = acquire(results)
    time.sleep(0.05)
    cells = read_sweep(results).cells
    results.checkpoints.write(state(60, cells[5].cell_id))
    results.checkpoints.write_history(cells[8].cell_id, history())
    results.write_result(row(cells[3]), history(), [])
    assert cli.main(["status", f"file://{results}/"]) == 0
    out = capsys.readouterr().out
    lease.release()
    assert counts(out) == {"transformer8": [5, 2, 1, 1, 0, 1], "transformer16": [5, 0, 0, 0, 2, 3]}
    assert "Running: by process" in out
    assert "left." in out


NOTHING = {"chance": 0.1, "steps_trained": 100, "wall_seconds": 90.0} | {
    f"{split}_{name}": 0.1 for split in schema.SPLITS for name in ("first", "last")
} | {f"{split}_improvement": 0.0 for split in schema.SPLITS} | {
    f"{split}_{name}_se": 0.01 for split in schema.SPLITS for name in schema.STATISTICS
}  # fmt: skip


def test_cells_that_never_left_their_plateau_are_counted_with_what_more_steps_cost(results, capsys):
    cells = read_sweep(results).cells
    assert cli.main(["status", str(results)]) == 0
    assert "plateau" not in capsys.readouterr().out
    for cell, loss in ((cells[3], 2.3026), (cells[4], 2.3), (cells[7], 2.2)):
        results.write_result(row(cell, train_loss=loss, **NOTHING), history(), [])
    assert cli.main(["status", str(results)]) == 0
    expected = "2 of the done cells never left their plateau in 100 steps; as many again would take"
    assert f"{expected} them about 3:00 min of a worker." in capsys.readouterr().out
    for cell, unsaid in ((cells[8], "steps_trained"), (cells[9], "wall_seconds")):
        told = {**NOTHING, unsaid: float("inf") if unsaid == "wall_seconds" else None}
        results.write_result(row(cell, train_loss=2.3, **told), history(), [])
    assert cli.main(["status", str(results)]) == 0
    expected = "3" + expected[1:]
    assert f"{expected} them about 3:00 min of a worker." in capsys.readouterr().out


def test_plateaus_of_families_are_at_what_no_context_loses(results, capsys):
    """Cells' files say it, and so do their seals; those of earlier programs don't, and are read."""
    at, above = read_sweep(results).cells[3:5]
    told = {**NOTHING, "train_loss": 1.5}
    losses = {"guess_loss": 2.3, "train_loss_no_context": 1.5}
    results.write_result(row(at, **told, **losses), history(), [])
    losses = {"guess_loss": 1.5, "train_loss_no_context": 2.6}
    results.write_result(row(above, **told, **losses), history(), [])
    assert cli.main(["status", str(results)]) == 0
    assert "1 of the done cells never left their plateau" in capsys.readouterr().out
    content = (results.local_path / "cells" / f"{at.cell_id}.parquet").read_bytes()
    facts = seals.facts_of(content)
    assert facts.pop("train_loss_no_context") == 1.5
    assert status._late_rows(content, facts | {"dataset": None})[at.cell_id]


def test_each_file_of_cells_is_fetched_and_digested_once(tmp_path, monkeypatch):
    made = Results(str(tmp_path / "root"), "sweep")
    sweep = parse_preset(TEXT, default_name="sweep")
    write_settings(made, sweep.settings)
    for cell in sweep.cells[:4]:
        made.write_result(row(cell, train_loss=9.0), history(), [])
    fetched = []
    fetch = made.tables.fetch
    monkeypatch.setattr(
        made.tables, "fetch", lambda table, names: fetched.extend(names) or fetch(table, names)
    )
    digested = []
    facts_of = seals.facts_of
    monkeypatch.setattr(seals, "facts_of", lambda data: digested.append(data) or facts_of(data))
    assert "done" in status.report(made)[2]
    assert sorted(fetched) == sorted(f"{cell.cell_id}.parquet" for cell in sweep.cells[:4])
    assert len(digested) == 4


def test_a_merged_tree_of_before_has_cells_on_their_plateau(capsys):
    """Its file has no column of what a guess loses."""
    assert cli.main(["status", "results/reference/quickstart"]) == 0
    assert "4 of the done cells never left their plateau in 1,000 steps" in capsys.readouterr().out


@pytest.mark.parametrize("seeks", [False, True])
def test_nobody_knows_when_a_search_ends(results, seeks):
    lease = acquire(results, seeks=seeks)
    results.write_result(row(read_sweep(results).cells[3]), history(), [])
    left = status.look(results).seconds_left()
    said = "\n".join(status.report(results))
    lease.release()
    assert (left is None) == seeks
    assert (" left." in said) != seeks


@pytest.mark.parametrize("seeks", [False, True])
def test_a_grid_that_is_trained_over_an_interrupted_search(results, seeks):
    cells = read_sweep(results).cells
    standing = {"phase": "generalizing", "row": "model_size 8", "low": 1.5, "middle": 2.0,
                "high": None, "width": 3.25, "done": False}  # fmt: skip
    write_rounds(results, [Round({cells[0].cell_id: 1.25}, [standing])])
    lease = acquire(results, seeks=seeks)
    said = "\n".join(status.report(results))
    lease.release()
    rounds = "boundaries: 1 rounds, 1 cells proposed"
    grid = f"Sought {rounds}; it was interrupted, and now the whole grid is trained."
    assert (f"Seeks {rounds}." in said) == ("to take 1.25 octaves off" in said) == seeks
    assert (grid in said) != seeks
    assert "generalizing begins, model_size 8: 2^ above 1.5" in said


def test_no_time_is_told_where_clocks_differ(results):
    lease = acquire(results)
    results.write_result(row(read_sweep(results).cells[3]), history(), [])
    ahead = {**(results.claim.lease() or {}), "since": time.time() + 3600}
    (results.local_path / "driver").write_text(json.dumps(ahead))
    for path in (results.local_path / "cells").iterdir():
        os.utime(path, (time.time() + 3605,) * 2)
    said = "\n".join(status.report(results))
    lease.release()
    assert "Running: " in said
    assert " left." not in said


def test_the_time_left_follows_the_work(results):
    cells = read_sweep(results).cells[:2]
    ids = [cell.cell_id for cell in cells]
    since = time.time() - 100
    left = status.seconds_left(
        cells, {ids[0]: "done", ids[1]: "missing"}, {ids[0]: time.time()}, {}, since
    )
    assert left == pytest.approx(100, rel=0.05)
    assert status.seconds_left(cells, dict.fromkeys(ids, "missing"), {}, {}, since) is None
    assert status.seconds_left(cells, dict.fromkeys(ids, "done"), {}, {}, since) == 0


def test_a_copy_with_another_name(results, capsys):
    assert cli.main(["status", str(results)]) == 0
    told = capsys.readouterr().out
    shutil.copytree(results.local_path, f"{results.local_path} (1)")
    assert cli.main(["status", f"{results} (1)"]) == 0
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nowhere/sweep", "no such folder"),
        ("root", "it holds the sweeps sweep"),
        ("root/sweep/cells", "it has no sweep.yaml"),
        ("root/sweep/sweep.yaml", "not a folder"),
        ("nosuch://a/b", "can't use"),
        ("..", "no such|not a sweep"),
    ],
)
def test_wrong_paths_are_said_in_one_line(results, tmp_path, monkeypatch, path, why, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", path]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(why, err)


def test_a_damaged_preset_is_named(results, capsys):
    (results.local_path / "sweep.yaml").write_bytes(b"\xff\x00")
    assert cli.main(["status", str(results)]) == 1
    (results.local_path / "sweep.yaml").write_text("grid: [")
    assert cli.main(["status", str(results)]) == 1
    err = capsys.readouterr().err
    assert err.count("sweep.yaml: damaged") == err.count("\n") == 2


def test_it_needs_neither_torch_nor_ray(results):
    code = f"""if True:
        import sys
        from metaphase.sweeps.commands import status
        assert status.main([{str(results)!r}]) == 0
        assert not {{"torch", "ray", "pandas"}} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_phases_are_counted_by_a_rule_that_is_named(results, tmp_path, capsys):
    rule = f"{write_plug_ins(tmp_path)['halfway.py']}:halfway"
    assert status.main([str(results), "--rule", rule]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("Phases of"))
    assert re.match(r"Phases of the 1 done cells by \S+halfway\.py:halfway: ", line)
    assert sum(map(int, re.findall(r"(\d+) (?:gen|ide|mem|unt)", line))) == 1
    assert status.main([str(results), "--rule", "none.py:x"]) == 1
    assert "can't read" in capsys.readouterr().err
