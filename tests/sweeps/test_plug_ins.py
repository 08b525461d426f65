"""Sweeps with plug-ins: how presets name them, how results trees keep them, who runs their code."""

import dataclasses
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from metaphase.analysis import phase_plot
from metaphase.core import plugin_facts, plugins
from metaphase.core.cell import ConfigError
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps import cli, plug_ins
from metaphase.sweeps.preset import load_preset, parse_preset
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import read_sweep, write_settings
from metaphase.sweeps.store.tables import CELLS, concatenate, to_table
from tests.docs import write_plug_ins

PRESET = """
name: noisy
cell: {task_family: ./regression.py:LinearRegression, dimension: 2, noise: 0.1, num_layers: 1,
  sequence_length: 8, batch_size: 8, steps: 20, eval_every: 10, eval_sequences: 32, warmup_steps: 0}
grid: {model_size: [8, 16], num_tasks: [1, 64], seed: [0]}
"""


@pytest.fixture
def folder(tmp_path):
    write_plug_ins(tmp_path)
    (tmp_path / "noisy.yaml").write_text(PRESET)
    return tmp_path


@pytest.fixture
def sweep(folder):
    return load_preset(str(folder / "noisy.yaml"))


def finish(sweep, results):
    write_settings(results, sweep.settings)
    trainer = PackTrainer(sweep.cells)
    while not trainer.finished:
        trainer.advance()
    for (row, curves), history in zip(trainer.results(), trainer.history, strict=True):
        results.write_result(row, history, curves)


def test_paths_start_where_the_preset_is(folder, sweep, monkeypatch):
    [cell, *_] = sweep.cells
    assert len(sweep.cells) == 4
    assert cell.task_family.startswith("regression.py:LinearRegression@")
    assert cell.dimension == 2
    monkeypatch.chdir(folder)
    said = ["task_family=./regression.py:LinearRegression", "dimension=2", "noise=0.1"]
    text = PRESET.replace("task_family: ./regression.py:LinearRegression, ", "")
    text = text.replace("dimension: 2, noise: 0.1, ", "")
    from_options = parse_preset(text, said, default_name="x", source="/nowhere/x.yaml")
    assert {c.cell_id for c in from_options.cells} == {c.cell_id for c in sweep.cells}


def test_a_base_s_plug_in_has_settings_in_the_preset_above(folder, sweep):
    (folder / "above.yaml").write_text("base: ./noisy.yaml\ncell: {dimension: 3}\n")
    above = load_preset(str(folder / "above.yaml"))
    assert {c.dimension for c in above.cells} == {3}
    assert not {c.cell_id for c in above.cells} & {c.cell_id for c in sweep.cells}


def test_settings_are_axes_and_are_left_out_where_they_mean_nothing(folder):
    text = """
cell: {steps: 2, batch_size: 4, sequence_length: 4, image_size: 4, num_layers: 1}
grid:
- {architecture: [transformer, "./gated.py:GatedRecurrence"], model_size: [8]}
- {architecture: ["./gated.py:GatedRecurrence"], expansion: [2, 3]}
"""
    (folder / "gated.yaml").write_text(text)
    cells = load_preset(str(folder / "gated.yaml")).cells
    assert [dict(c.own) for c in cells] == [
        {},
        {"expansion": 1},
        {"expansion": 2},
        {"expansion": 3},
    ]
    (folder / "gated.yaml").write_text(text.replace("{steps", "{expansion: 4, steps"))
    cells = load_preset(str(folder / "gated.yaml")).cells
    assert [dict(c.own) for c in cells[:2]] == [{}, {"expansion": 4}]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("./regression.py", "./nowhere.py", "noisy.yaml: task_family: can't read .*nowhere.py"),
        (":LinearRegression", ":Linear", "the file has no Linear"),
        ("./regression.py:LinearRegression", "./gated.py:GatedRecurrence", "lacks problem, seq"),
        ("./regression.py:LinearRegression", "regresion", "'regresion' is not one of projected"),
        ("dimension: 2", "dimension: 0", "dimension: 0 is out of range; allowed: 1 or more"),
        ("dimension: 2", "dimensio: 2", "'dimensio': unknown key .did you mean dimension"),
        ("dimension: 2", "expansion: 2", "'expansion': unknown key"),
        ("dimension: 2", "dataset: MNIST, expansion: 2", "'expansion': unknown key"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(folder, old, new, message):
    plugins.load("architecture", f"{folder}/gated.py:GatedRecurrence")  # known, but not used
    (folder / "noisy.yaml").write_text(PRESET.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        load_preset(str(folder / "noisy.yaml"))
    assert "\n" not in str(caught.value)


def test_code_is_not_read_from_a_bucket():
    with pytest.raises(ConfigError, match="is code, which isn't read from s3://bucket"):
        parse_preset(PRESET, default_name="x", source="s3://bucket/x.yaml")


READER = """
import sys
from metaphase.core import plugin_facts, plugins
def refuse(*a, **k): raise SystemExit("code of a plug-in was run")
plugins.load_source = plugins.load = plugins.entry_point = refuse
from metaphase.sweeps import cli
sys.exit(max(cli.main([word, sys.argv[1]]) for word in ("status", "compact", "plot", "report")))
"""


def test_who_reads_a_tree_runs_no_code(folder, sweep):
    results = Results(str(folder / "results"), "noisy")
    finish(sweep, results)
    (folder / "regression.py").unlink()
    [kept] = (folder / "results" / "noisy" / "plugins").rglob("regression.py")
    kept.write_text("raise SystemExit('code of a tree was run')")
    command = [sys.executable, "-c", READER, str(results)]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert "transformer             8       2         2" in out.stdout
    assert (folder / "results" / "noisy" / "figures" / "phase_map.png").exists()
    cells = pd.read_parquet(folder / "results" / "noisy" / "cells")
    assert set(cells["own_settings"]) == {"dimension,noise"}
    assert set(cells["dimension"]) == {2}
    assert cells["dataset"].isna().all()


def test_a_sweep_runs_again_from_its_folder(folder, sweep, capsys):
    results = Results(str(folder / "results"), "noisy")
    finish(sweep, results)
    copy = shutil.copytree(folder / "results" / "noisy", folder / "elsewhere")
    command = ["run", str(copy / "sweep.yaml"), "--root", str(folder / "again"), "--dry-run"]
    # In a process that has never seen the plug-in.
    code = "import sys\nfrom metaphase.sweeps import cli\nsys.exit(cli.main(sys.argv[1:]))\n"
    shutil.rmtree(folder / "results")
    (folder / "regression.py").unlink()
    ran = [sys.executable, "-c", code, *command]
    out = subprocess.run(ran, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert "4 of 4 cells to train" in out.stdout
    [kept] = (copy / "plugins").rglob("regression.py")
    kept.write_text(kept.read_text() + "\n")
    out = subprocess.run(ran, capture_output=True, text=True, check=False)
    assert out.returncode == 1
    assert out.stderr.count("\n") == 1
    assert "has been changed" in out.stderr


def test_a_changed_file_makes_other_cells_and_loses_none(folder, sweep, capsys):
    results = Results(str(folder / "results"), "noisy")
    finish(sweep, results)
    root = ["--root", str(folder / "results")]
    assert cli.main(["run", str(folder / "noisy.yaml"), *root, "--dry-run"]) == 0
    assert "0 of 4 cells to train" in capsys.readouterr().out
    file = folder / "regression.py"
    file.write_text(file.read_text().replace("y = w . x", "y = w x"))
    assert cli.main(["run", str(folder / "noisy.yaml"), *root, "--dry-run"]) == 0
    assert "4 of 4 cells to train" in capsys.readouterr().out
    assert len(results.finished()) == 4


def test_a_stored_preset_that_lies_is_refused_in_a_line(folder, sweep):
    results = Results(str(folder / "results"), "noisy")
    for said in (3, [3], [{"kind": "task_family"}], [{"kind": "x", "name": "a.py:B@0"}]):
        write_settings(results, {**sweep.settings, plug_ins.KEY: []} | {"plug_ins": []})
        text = (folder / "results" / "noisy" / "sweep.yaml").read_text()
        assert "plug_ins" in text
        with pytest.raises(ConfigError, match="plug_ins"):
            plug_ins.make_known(said, None)


def test_workers_get_the_code_from_the_driver(sweep):
    used = plugins.in_use_by(sweep.cells)
    [plug_in] = used
    assert plug_in.source is not None
    assert b"LinearRegression" in plug_in.source
    code = (
        "import pickle, sys\nfrom metaphase.core import plugins\n"
        "used, cells = pickle.load(sys.stdin.buffer)\nplugins.load_again(used)\n"
        "print(cells[0].problem.features, cells[0].cell_id)\n"
    )
    import pickle

    out = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((used, sweep.cells)),
        capture_output=True,
        check=True,
        cwd=os.sep,
    )
    assert out.stdout.decode().split() == ["2", sweep.cells[0].cell_id]


def test_the_map_of_an_own_family_is_drawn(folder, sweep):
    results = Results(str(folder / "results"), "noisy")
    finish(sweep, results)
    assert phase_plot.main([str(results)]) == 0
    assert read_sweep(results).cells == sweep.cells


def test_an_axis_may_have_a_value_that_isn_t_said():
    values = (None, 3, None)
    rows = [{"cell_id": str(i), "bound": value} for i, value in enumerate(values)]
    tables = [to_table([row], CELLS) for row in rows]
    whole, left_out = concatenate(tables)
    assert not left_out
    assert tuple(whole["bound"].to_pylist()) == values


def test_a_file_has_all_columns_of_predictors_where_they_are_null_too():
    """pandas and DuckDB take the columns of a folder's first file."""
    names = ("unseen_relative_distance", "seen_distance_memorizing_se", "train_off_line")
    null = to_table([{"cell_id": "a", **dict.fromkeys(names), "bound": None}], CELLS)
    told = to_table([{"cell_id": "b", **dict.fromkeys(names, 0.5), "my_loss_kind": "l2"}], CELLS)
    assert "bound" not in null.column_names
    assert told.schema.field("my_loss_kind").type == "string"
    for name in names:
        assert null.schema.field(name) == told.schema.field(name)
    named = to_table([{"my_loss_kind": None}, {"my_loss_kind": "l2"}], CELLS)
    assert named["my_loss_kind"].to_pylist() == [None, "l2"]


SQUARES = """
from metaphase.core.datasets import DatasetInfo

class Squares:
    def info(self):
        return DatasetInfo(image_size=8, channels=1, num_classes=3, num_train=60, num_heldout=30)
    def load(self, train, root): ...
"""


@pytest.mark.parametrize("lacking", [(), ("downloaded",)])
def test_what_is_said_of_each_kind_makes_it_known_again(lacking):
    """Also where an earlier version didn't say all of it."""
    name = plugins.load_source("dataset", "squares.py", "Squares", SQUARES.encode())
    said = plugin_facts.facts(plugins.find("dataset", name))
    before = plugins.REGISTRIES["dataset"].pop(name)
    del plugins.known["dataset", name]
    plugin_facts.declare({key: value for key, value in said.items() if key not in lacking})
    again = plugins.REGISTRIES["dataset"][name]
    assert dataclasses.replace(again, load=None) == dataclasses.replace(before, load=None)
    for wrong in ({"downloaded": 1}, {"num_train": True}, {"image_size": 0}):
        del plugins.REGISTRIES["dataset"][name]
        with pytest.raises(ConfigError, match="what is said of squares"):
            plugin_facts.declare({**said, **wrong})
        plugins.REGISTRIES["dataset"][name] = again


@pytest.mark.parametrize("version", ["", '    version = "1"\n'])
def test_a_file_that_was_changed_in_a_tree_is_not_run(tmp_path, version):
    code = (
        f"class Mine:\n{version}    def problem(self):\n        return Problem(2, Classes(3))\n"
        "    def sequences(self, *_): ...\n"
    )
    source = f"from metaphase.core.tasks import Classes, Problem\n{code}"
    name = plugins.load_source("task_family", "mine.py", "Mine", source.encode())
    [facts] = plug_ins.stored([plugins.find("task_family", name)])
    plugins.TASK_FAMILIES.pop(name)  # as in a process that has never seen it
    plugins.known.pop(("task_family", name))
    ran = tmp_path / "ran"
    changed = f"open({str(ran)!r}, 'w').close()\n{source}".encode()
    with pytest.raises(ConfigError, match=r"mine\.py has been changed"):
        plug_ins.make_known([facts], lambda _: changed)
    if version:  # which doesn't tell the contents: without a hash nothing does
        unsaid = {key: value for key, value in facts.items() if key != "sha256"}
        with pytest.raises(ConfigError, match="or the preset lacks its sha256"):
            plug_ins.make_known([unsaid], lambda _: changed)
    assert not ran.exists()
    plug_ins.make_known([facts], lambda _: source.encode())
    assert plugins.find("task_family", name).source == source.encode()


def test_two_files_of_one_name_and_version_are_told_apart(tmp_path):
    code = (
        "from metaphase.core.tasks import Classes, Problem\n"
        "class Twice:\n    version = 3\n    def problem(self):\n"
        "        return Problem({}, Classes(3))\n    def sequences(self, *_): ...\n"
    )
    for folder, features in (("a", 2), ("b", 4), ("same", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(code.format(features))
    name = plugins.load("task_family", "./mine.py:Twice", tmp_path / "a")
    with pytest.raises(ConfigError, match=r"Twice@v3 is .*/a/mine\.py too.*another version"):
        plugins.load("task_family", "./mine.py:Twice", tmp_path / "b")
    assert plugins.load("task_family", "./mine.py:Twice", tmp_path / "same") == name
    # A file that is edited stays what it says to be.
    (tmp_path / "a" / "mine.py").write_text("# a word\n" + code.format(2))
    assert plugins.load("task_family", "./mine.py:Twice", tmp_path / "a") == name
    assert plugins.find("task_family", name).source.startswith(b"# a word")


def test_a_pipe_is_no_file_of_code(tmp_path):
    os.mkfifo(tmp_path / "mine.py")
    with pytest.raises(ConfigError, match="is not a regular file"):
        plugins.load("task_family", "./mine.py:Mine", tmp_path)
