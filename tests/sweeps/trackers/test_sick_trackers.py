"""Trackers that hang, die, refuse or can't begin cost a line, and what is mirrored is noted."""

import json
import os
import re
import select
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from metaphase.sweeps import cli
from metaphase.sweeps.trackers import mirror
from metaphase.sweeps.trackers.backends import TRACKERS
from tests import ROOT
from tests.sweeps.trackers.by_hand import by_hand


def test_a_tracker_that_hangs_or_dies_costs_a_line(results, tmp_path, monkeypatch, capsys):
    """As `run --track` does it: a process that never ends, and one that ends at once."""
    monkeypatch.setattr(mirror, "LATE_SECONDS", 0.5)

    def costs(code):
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        if "Exit" in code:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        monkeypatch.setattr(mirror, "_start", lambda name, results: (child, Path("the.log")))
        began = time.monotonic()
        with mirror.mirrored(["tensorboard"], results):
            pass
        assert time.monotonic() - began < 10
        return capsys.readouterr().err

    rest = f"; metaphase track {results} --to tensorboard mirrors the rest\n"
    assert costs("import time; time.sleep(600)") == f"tensorboard is late{rest}"
    failed = f"tensorboard hasn't got all cells, see the.log{rest}"
    assert costs("raise SystemExit(3)") == failed
    assert costs("raise SystemExit(0)") == ""

    def cannot(name, results):
        raise OSError("no\nroom")

    monkeypatch.setattr(mirror, "_start", cannot)
    with mirror.mirrored(["tensorboard"], results):
        pass
    assert capsys.readouterr().err == f"tensorboard hasn't begun: no room{rest}"


HANGS = """
import subprocess, sys, time
from metaphase.sweeps.commands import track
from metaphase.sweeps.trackers import backends, mirror

class Hangs:
    destination = ""
    def __init__(self, folder):
        subprocess.Popen(["sleep", "60"])
    def write(self, run):
        print("writes", flush=True)
        time.sleep(600)

backends.TRACKERS["tensorboard"] = (Hangs, "json")
mirror.ALONE_SECONDS = float(sys.argv[2])
track.run(sys.argv[1], "tensorboard", "out", True)
"""


@pytest.mark.parametrize("driver", ["ends", "is killed"])
def test_nothing_of_a_tracker_that_hangs_lives_on(results, monkeypatch, driver):
    alone = 600 if driver == "ends" else 0.5
    child = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(results), str(alone)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert child.stdout.readline() == b"writes\n"
    monkeypatch.setattr(mirror, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(mirror, "_start", lambda name, results: (child, Path()))
    if driver == "ends":
        with mirror.mirrored(["tensorboard"], results):
            pass
    else:
        child.stdin.close()
    ended, _, _ = select.select([child.stdout], [], [], 30)  # once nobody holds its output
    assert ended
    child.wait(30)
    child.stdout.close()


def in_a_process(code, *arguments, **options):
    """What is left of `code`, of which the names below are known."""
    known = """
        import os, signal, sys, threading, time
        from metaphase.sweeps.commands import track
        from metaphase.sweeps.trackers import backends, mirror
    """
    code = textwrap.dedent(known) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


def noted(results, name="tensorboard"):
    ledger = mirror.folder_of(results, name) / mirror.LEDGER
    return [json.loads(line)["cell_id"] for line in ledger.read_text().strip().split("\n")]


def test_by_hand_a_cell_has_a_limit(results):
    """Whatever hangs, also threads that Python waits for at its end."""
    code = """
        import tensorboardX  # takes seconds of its own on a busy machine

        class Hangs(backends.TensorBoard):
            def write(self, run):
                if (self._folder / mirror.LEDGER).exists():
                    threading.Thread(target=time.sleep, args=(600,)).start()
                    threading.Event().wait()
                super().write(run)

        backends.TRACKERS["tensorboard"] = (Hangs, "json")
        mirror.CELL_SECONDS = 4.0
        sys.exit(track.main([sys.argv[1], "--to", "tensorboard"]))
    """
    done = in_a_process(code, results)
    assert done.returncode == 1
    line = (
        "error: tensorboard has taken more than 4 seconds for ([0-9a-f]+); "
        "the same command goes on\n"
    )
    late = re.fullmatch(line, done.stderr)[1]
    [one] = noted(results)
    assert late in set(results.finished()) - {one}


def test_tensorboard_says_that_the_disk_is_full(results):
    """As a limit of files' sizes does: a write fails that was waited for by nobody."""
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        sys.exit(track.main([sys.argv[1], "--to", "tensorboard"]))
    """
    done = in_a_process(code, results)
    assert done.returncode == 1
    lines = done.stderr.strip().split("\n")
    assert all("isn't mirrored: [Errno 27] File too large" in line for line in lines[:-1])
    assert lines[-1].endswith(f"tensorboard refused {len(lines) - 1} cells; why is said above")
    assert len(lines) > 2
    folder = mirror.folder_of(results, "tensorboard")
    assert len([place for place in folder.iterdir() if place.is_dir()]) == 4 - len(lines)


@pytest.mark.parametrize("name", TRACKERS)
def test_what_a_kill_leaves_half_is_replaced(results, tmp_path, monkeypatch, name):
    """The first cell is noted; the second is with the tracker, and isn't noted."""
    pytest.importorskip(TRACKERS[name][1], reason=f"{name} isn't there")
    monkeypatch.setenv("WANDB_MODE", "offline")
    code = """
        own, package = backends.TRACKERS[sys.argv[2]]

        class Killed(own):
            def write(self, run):
                super().write(run)
                if (self._folder / mirror.LEDGER).exists():
                    os.kill(os.getpid(), signal.SIGKILL)

            def __init__(self, folder):
                super().__init__(folder)
                self._folder = folder

        backends.TRACKERS[sys.argv[2]] = (Killed, package)
        track.main([sys.argv[1], "--to", sys.argv[2]])
    """
    assert in_a_process(code, results, name).returncode == -9
    assert len(noted(results, name)) == 1
    at = "mode=offline" if name == "wandb" else ""
    folder = by_hand(results, name, tmp_path, taken=2, at=at)
    assert sorted(COPIES[name](folder)) == sorted(results.finished())
    assert sorted(noted(results, name)) == sorted(results.finished())


def tensorboard_runs(folder):
    return [file.parent.name for file in folder.glob("*/events*")]


def wandb_runs(folder):
    return [file.stem.removeprefix("run-") for file in folder.glob("wandb/off*/*.wandb")]


def mlflow_runs(folder):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_name for run in client.search_runs(ids)]


def trackio_runs(folder):
    read = "import trackio; print(*(r.name for r in trackio.Api().runs('growing')))"
    return subprocess.run(
        [sys.executable, "-c", read], capture_output=True, text=True, check=True,
        env={"TRACKIO_DIR": str(folder), "PATH": "", "HOME": str(folder)},
    ).stdout.split()  # fmt: skip


COPIES = {
    "tensorboard": tensorboard_runs,
    "wandb": wandb_runs,
    "mlflow": mlflow_runs,
    "trackio": trackio_runs,
}


def test_trackio_that_has_lost_rows_has_refused_the_cell(results, tmp_path, monkeypatch):
    """All that it says of failed writes is warnings."""
    told = ["slow", "trackio failed to flush metric logs for run 'x': disk is full.", "fine"]
    stub = SimpleNamespace(
        init=lambda **_: None, log=lambda *_, **__: None, Api=lambda: SimpleNamespace(runs=none),
        finish=lambda: warnings.warn(told.pop(0), stacklevel=1),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "trackio", stub)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    made = mirror.Mirror(results, "trackio", tmp_path / "m")
    assert made.catch_up() == 2
    assert made.left == 1


def none(project):
    raise ValueError(f"Project {project!r} does not exist")


class Unmakable:
    def __init__(self, folder):
        raise RuntimeError("no server\nat https://me:secret@here/x")


def test_a_tracker_that_cannot_begin_is_a_line(results, monkeypatch, capsys):
    monkeypatch.setitem(TRACKERS, "mlflow", (Unmakable, "json"))
    assert cli.main(["track", str(results), "--to", "mlflow"]) == 1
    assert capsys.readouterr().err == ("error: mlflow can't be used: no server at https://here/x\n")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_broken_package_is_a_line_and_beside_training_too(
    results, tmp_path, monkeypatch, capsys, name
):
    package = tmp_path / "broken" / f"{TRACKERS[name][1]}.py"
    package.parent.mkdir()
    package.write_text("raise ImportError('libfoo.so is missing')")
    path = os.pathsep.join([str(package.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(package.parent)
    line = f"error: {name} can't be used: libfoo.so is missing\n"
    command = [sys.executable, "-m", "metaphase.sweeps.cli", "track", str(results), "--to", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, line)
    monkeypatch.setattr(mirror, "LATE_SECONDS", 120.0)
    with mirror.mirrored([name], results):
        pass
    [log] = (tmp_path / "root" / "growing" / "logs").glob(f"track-{name}-*.log")
    assert log.read_text() == line
    assert capsys.readouterr().err == (
        f"{name} hasn't got all cells, see {log}; "
        f"metaphase track {results} --to {name} mirrors the rest\n"
    )


def test_beside_training_a_refused_cell_is_told(results):
    code = """
        class Refuses(backends.TensorBoard):
            def write(self, run):
                raise RuntimeError("429")

        backends.TRACKERS["tensorboard"] = (Refuses, "json")
        sys.exit(track.main([sys.argv[1], "--to", "tensorboard", "--until-closed"]))
    """
    done = in_a_process(code, results)
    assert done.returncode == 1
    assert done.stderr.endswith("error: tensorboard refused 3 cells; why is said above\n")
