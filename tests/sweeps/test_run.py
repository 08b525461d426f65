"""The command, end to end through real Ray: what is missing is trained, once, whatever happens."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import ray

from metaphase.core import schema
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps import run
from metaphase.sweeps.execution import driver, trials
from metaphase.sweeps.preset import load_preset
from metaphase.sweeps.store.results import Results
from tests.tools.processes import descendants, kill

PRESET = """
cell:
  image_size: 4
  num_classes: 5
  sequence_length: 8
  batch_size: 8
  steps: 40
  eval_every: 20
  eval_sequences: 16
  warmup_steps: 5
grid: {model_size: [4, 8], num_tasks: [1, 8], seed: [0, 1]}
"""
LONG = ("--set", "steps=600", "--set", "eval_every=150")  # a few seconds to interrupt


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(PRESET)
    return str(path)


@pytest.fixture(scope="module")
def one_ray():
    """Ray kept running between tests, which `main` uses, and commands by its address."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=10**8, log_to_driver=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def logs_stay(monkeypatch):
    monkeypatch.setattr(driver, "log_to", lambda path: None)


def main(preset, root, *arguments):
    return run.main([preset, "--root", str(root), *arguments])


def tables(path):
    """All numbers of a tree; wall time is no result."""
    cells = pd.read_parquet(path / "cells").drop(columns=["wall_seconds", "sweep"])
    return {
        "cells": cells.sort_values("cell_id", ignore_index=True),
        **{
            name: pd.read_parquet(path / name).sort_values(
                ["cell_id", "split", by], ignore_index=True
            )
            for name, by in (("history", "step"), ("curves", "position"))
        },
    }


def assert_same(a, b):
    for name, table in tables(a).items():
        pd.testing.assert_frame_equal(table, tables(b)[name], check_exact=True)


def written(path):
    return {p.name: p.stat().st_mtime_ns for p in (path / "cells").iterdir()}


def test_a_sweep_end_to_end(one_ray, preset, tmp_path, capsys):
    assert main(preset, tmp_path, "--pack-size", "3") == 0
    out = capsys.readouterr().out
    assert re.search(r"8 of 8 cells to train", out)
    assert re.search(r"8 of 8 cells are finished: .*\d+ \w+ing|untrained", out)
    assert re.search(r"s on 2 workers, \d+% of it training and evaluating", out)
    assert f"Next: metaphase plot {tmp_path}/tiny" in out
    path = tmp_path / "tiny"
    cells = tables(path)["cells"]
    assert (cells.status == schema.DONE).all()
    assert sorted(cells.cell_id) == sorted(c.cell_id for c in load_preset(preset).cells)
    assert sorted(p.name for p in path.iterdir() if p.name != ".writing") == sorted(
        ["cells", "curves", "driver", "history", "logs", "sweep.yaml"]
        + (["checkpoints"] if (path / "checkpoints").exists() else [])
    )

    # Each cell's numbers are those it has alone.
    cell = load_preset(preset).cells[-1]
    alone = PackTrainer([cell])
    while not alone.finished:
        alone.advance()
    ((row, curves),) = alone.results()
    stored = cells.set_index("cell_id").loc[cell.cell_id]
    for name in (f"{s}_{k}" for s in schema.SPLITS for k in ("loss", *schema.STATISTICS)):
        assert stored[name] == row[name]
    history = tables(path)["history"].query(f"cell_id == '{cell.cell_id}'")
    assert len(history) == len(alone.history[0])
    assert len(tables(path)["curves"].query(f"cell_id == '{cell.cell_id}'")) == len(curves)

    # The same command trains nothing, an enlarged grid what is new.
    before = written(path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(driver, "train", None)
        assert main(preset, tmp_path) == 0
    assert "Nothing to do: all 8 cells of tiny are finished." in capsys.readouterr().out
    assert written(path) == before
    assert main(preset, tmp_path, "--set", "seed=[0, 1, 2]") == 0
    assert "4 of 12 cells to train" in capsys.readouterr().out
    after = written(path)
    assert len(after) == 12
    assert before.items() <= after.items()


def promises_memory_it_lacks():
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    return overcommit.exists() and overcommit.read_text().strip() == "1"


@pytest.mark.slow  # without Ray: tests/sweeps/execution/test_local.py
@pytest.mark.skipif(promises_memory_it_lacks(), reason="terabytes can be asked for here")
def test_a_cell_that_cannot_be_trained_fails_alone(one_ray, preset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trials, "MAX_FAILURES", 0)  # each time takes a new worker, seconds
    huge = "- {model_size: [65536], num_layers: [20], key_size: [64]}"  # weights of terabytes
    Path(preset).write_text(PRESET.replace("grid: ", "grid:\n- ") + huge)
    cells = load_preset(preset).cells
    sick = cells[-1].cell_id
    expected = {c.cell_id: schema.FAILED if c is cells[-1] else schema.DONE for c in cells}
    assert main(preset, tmp_path) == 1
    captured = capsys.readouterr()
    assert re.search(rf"failed: {sick} \(model_size=65536, .*\): .*Error.* memory", captured.err)
    assert "1 cells failed" in captured.err
    assert Results(str(tmp_path), "tiny").finished() == expected

    assert main(preset, tmp_path) == 1  # not tried again unasked
    assert "Nothing to do" in capsys.readouterr().out
    assert main(preset, tmp_path, "--retry-failed", "--dry-run") == 0
    assert "1 of 9 cells to train" in capsys.readouterr().out


@pytest.mark.slow
def test_data_that_cannot_be_had_ends_the_run_in_one_line(one_ray, preset, tmp_path, capsys):
    data = tmp_path / "data"
    data.write_text("a file where the folder should be")
    assert main(preset, tmp_path, "--set", "dataset=MNIST", "--data-root", str(data)) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: dataset: {data}/MNIST/raw/")
    assert error.count("\n") == 1
    assert Results(str(tmp_path), "tiny").finished() == {}


# --- interruptions: the command is a process of its own ---


def launch(preset, root, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "metaphase.sweeps.run", preset, "--root", str(root), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives it
    )


def training_workers(path, process, count=1):
    """Ids of the workers once `count` of them train."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        logs = [p for p in path.glob("logs/worker-*.log") if "training" in p.read_text()]
        if len(logs) >= count:
            return [int(p.stem.rpartition("-")[2]) for p in logs]
        time.sleep(0.05)
    raise AssertionError(f"no worker trained: {process.communicate()}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same sweep, trained by one process without Ray."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "tiny.yaml").write_text(PRESET)
    assert main(str(root / "tiny.yaml"), root, *LONG, "--executor", "local") == 0
    return root / "tiny"


def interrupt(preset, root, number):
    process = launch(preset, root, *LONG)
    training_workers(root / "tiny", process)
    time.sleep(0.5)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == run.INTERRUPTED, (out, err)
    assert "Stopped. This continues: python -m metaphase.sweeps.run" in out
    assert "Traceback" not in out + err
    assert Results(str(root), "tiny").checkpoints.steps()


def test_interrupted_and_continued(one_ray, preset, tmp_path, undisturbed):
    interrupt(preset, tmp_path, signal.SIGINT)
    assert main(preset, tmp_path, *LONG) == 0
    assert_same(tmp_path / "tiny", undisturbed)
    assert not list((tmp_path / "tiny").glob("checkpoints/*"))


@pytest.mark.slow
def test_a_node_that_is_to_leave_checkpoints_too(one_ray, preset, tmp_path):
    interrupt(preset, tmp_path, signal.SIGTERM)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(one_ray, preset, tmp_path, undisturbed):
    process = launch(preset, tmp_path, *LONG)
    (first, *_) = training_workers(tmp_path / "tiny", process)
    os.kill(first, signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, (out, err)
    assert_same(tmp_path / "tiny", undisturbed)


@pytest.mark.slow
def test_a_killed_driver_and_the_same_command_again(one_ray, preset, tmp_path, undisturbed):
    process = launch(preset, tmp_path, *LONG)
    training_workers(tmp_path / "tiny", process)
    process.kill()
    process.communicate(timeout=300)
    assert main(preset, tmp_path, *LONG) == 0
    assert_same(tmp_path / "tiny", undisturbed)


@pytest.mark.slow
def test_a_dead_raylet_ends_the_command_and_the_same_command_continues(
    one_ray, preset, tmp_path, undisturbed, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setenv("RAY_ADDRESS", "local")
        process = launch(preset, tmp_path, *LONG)
    training_workers(tmp_path / "tiny", process)
    below = descendants(process.pid)
    assert sum(kill(pid) for pid, name in below.items() if "raylet/raylet" in name) == 1
    started = time.monotonic()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert time.monotonic() - started < 60
    assert "error: Ray has died (raylet). The same command continues" in err
    assert "Traceback" not in out + err
    assert main(preset, tmp_path, *LONG) == 0
    assert_same(tmp_path / "tiny", undisturbed)


# --- the command line ---


def command(*arguments, cwd=None, python=(sys.executable,), script=("-m", "metaphase.sweeps.run")):
    return subprocess.run(
        [*python, *script, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300
    )


def test_listing_and_mistakes_need_neither_torch_nor_ray():
    code = """if True:
        import sys
        from metaphase.sweeps import run
        assert run.main(["--list"]) == 0
        assert run.main(["quickstrat"]) == 1
        assert run.main(["quickstart", "--set", "num_heads=3", "--set", "key_size=null"]) == 1
        assert not {"torch", "ray", "pandas"} & set(sys.modules)
    """
    done = command(script=("-c", code))
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "] * 2


@pytest.mark.parametrize(
    "arguments",
    [(), ("quickstart", "--pack-size", "0"), ("quickstart", "--pack-size", "x"), ("a", "--no")],
)
def test_wrong_command_lines_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(list(arguments))
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(preset, tmp_path, capsys):
    assert main(preset, tmp_path / "root", "--dry-run") == 0
    out = capsys.readouterr().out
    assert re.search(r"transformer +4 +\d+ +4 +0 +4 +\d", out)
    assert re.search(r"8 of 8 cells to train, [\d.]+e\+\d+ floating-point operations", out)
    assert not (tmp_path / "root").exists()


def test_a_dry_run_of_one_nameless_pack(tmp_path, capsys):
    (tmp_path / "lr.yaml").write_text("cell: {steps: 10}")
    for search in ((), ("--boundary", "--set=num_tasks=[1, 2, 4, 8, 16]")):
        assert main(str(tmp_path / "lr.yaml"), tmp_path / "root", "--dry-run", *search) == 0
        out = capsys.readouterr().out
        assert out.startswith("lr\n")
        assert search or "; 1 pack, as for" in out


def test_settings_without_effect_are_told_on_stderr(preset, tmp_path, capsys):
    words = ("--set=architecture=lstm", "--set=position_encoding=learned", "--dry-run")
    assert main(preset, tmp_path / "root", *words) == 0
    told = "note: position_encoding: learned has no effect: lstm doesn't use it"
    assert told in capsys.readouterr().err.splitlines()


def test_it_works_as_a_lone_script(tmp_path):
    script = (shutil.copy(run.__file__, tmp_path / "run.py"),)
    assert "quickstart" in command("--list", cwd=tmp_path, script=script).stdout
    bare = command("--list", cwd=tmp_path, script=script, python=(sys.executable, "-S"))
    assert bare.returncode == 1
    assert bare.stderr == f"metaphase is not installed in this Python ({sys.executable})\n"


def test_roots_that_cannot_be_used_are_refused_in_one_line(preset, tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", "nosuch://bucket", Path("/proc/nowhere")):
        done = command(preset, "--root", str(root))
        assert done.returncode == 1
        assert done.stderr.startswith("error: root: can't ")
        assert done.stderr.count("\n") == 1
