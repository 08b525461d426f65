"""A sweep is watched while its writers are killed, its tree vanishes and its storage fails."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from metaphase import following
from metaphase.analysis.figures import text_map
from metaphase.analysis.serving.snapshot import MISSING
from metaphase.core import schema
from metaphase.following import Follower
from metaphase.sweeps import cli
from metaphase.sweeps.commands.status import State
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.results import Results
from tests.tools import growing
from tests.tools.s3 import BUCKET, failing_s3


@pytest.fixture
def results(tmp_path):
    return Results(str(tmp_path), "growing")


def check(view):
    """No number of a view is wrong."""
    if view.snapshot is None:
        return 0
    cells = view.snapshot.cells
    by_id = {cell.cell_id: cell for cell in growing.sweep().cells}
    assert set(cells["cell_id"]) == by_id.keys()
    done = cells[cells["status"] == schema.DONE]
    for row in done.itertuples():
        cell = by_id[row.cell_id]
        assert row.unseen_last == growing.accuracy(cell, "unseen", cell.steps)
        assert (row.phase == "generalizing") == (row.unseen_last > 0.5)
    every = view.snapshot.evaluations
    for cell_id, step, last in zip(
        every["cell_id"], every["step"], every["unseen_last"], strict=True
    ):
        assert last == growing.accuracy(by_id[cell_id], "unseen", step)
    steps = every.groupby("cell_id")["step"].max()
    assert (steps[done["cell_id"]] == 400).all()
    return len(done)


def test_waits_fills_and_begins_anew(results):
    follower = Follower(str(results))
    assert follower.look().line == f"waiting: {results}: no such folder"
    growing.grow(results, random.Random(0), 0.0, cells=7)
    assert check(follower.look()) == 7
    version = follower.view.version
    assert follower.look().version == version  # nothing new
    growing.grow(results, random.Random(0), 0.0)
    view = follower.look()
    assert check(view) == 30
    assert not view.line
    shutil.rmtree(results.local_path)
    assert follower.look().snapshot is None
    growing.grow(results, random.Random(3), 0.0, cells=2)
    assert check(follower.look()) == 2


def test_cells_in_training_have_the_phase_so_far(results):
    growing.grow(results, random.Random(0), 0.0, cells=1)
    done = next(iter(results.finished()))
    cell = next(c for c in growing.sweep().cells if c.cell_id != done and c.model_size == 16
                and c.num_tasks == 4096)  # fmt: skip
    results.checkpoints.write_history(cell.cell_id, growing.history(cell, 300))
    snapshot = Follower(str(results)).look().snapshot
    rows = snapshot.evaluations[snapshot.evaluations["cell_id"] == cell.cell_id]
    assert rows["step"].tolist() == [100, 200, 300]
    assert rows["phase"].iloc[-1] == "generalizing"
    status = snapshot.cells.set_index("cell_id")["status"]
    assert status[cell.cell_id] == MISSING  # nobody runs it


def test_looks_go_on_while_what_estimates_the_time_left_is_imported(results, monkeypatch):
    imported = threading.Event()
    monkeypatch.setattr(following, "_import_estimator", imported.wait)
    monkeypatch.setattr(State, "seconds_left", lambda self: 7.0)
    growing.grow(results, random.Random(0), 0.0, cells=3)
    lease = acquire(results)
    follower, views = Follower(str(results)), []
    follower.start(views.append, every=0.05)
    try:
        wait_for(lambda: len(views) > 4)
        assert views[-1].snapshot.grid.seconds_left is None
        imported.set()
        wait_for(lambda: views[-1].snapshot.grid.seconds_left == 7.0)
    finally:
        follower.stop()
        imported.set()
        lease.release()


def test_pauses_are_no_longer_than_what_is_seen_may_be_old():
    assert following.pause(2.0, 0.1) == 2.0
    assert following.pause(2.0, 3.0) == 6.0
    assert following.pause(2.0, 40.0) == following.LONGEST_PAUSE
    assert following.pause(60.0, 40.0) == 60.0


def test_of_a_search_small_letters_are_what_is_expected(results, capsys):
    growing.grow(results, random.Random(0), 0.0, cells=20)
    follower = Follower(str(results))
    [condition] = follower.look().snapshot.conditions
    assert condition.expected is None
    (results.local_path / "search.json").write_text("{}")
    [condition] = follower.look().snapshot.conditions
    expected = condition.expected[["model_size", "num_tasks"]]
    points = set(expected.itertuples(index=False, name=None))
    finished = results.finished()
    trained = {(c.model_size, c.num_tasks) for c in growing.sweep().cells if c.cell_id in finished}
    assert points == {(c.model_size, c.num_tasks) for c in growing.sweep().cells} - trained
    assert (condition.expected["share"] >= text_map.LIKELY).any()
    assert cli.main(["watch", str(results), "--once"]) == 0
    assert "expected, not trained" in " ".join(capsys.readouterr().out.split())  # lines wrap


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_preset_that_is_damaged_and_a_storage_that_fails_are_lines(results, monkeypatch):
    growing.grow(results, random.Random(0), 0.0, cells=3)
    follower = Follower(str(results))
    assert check(follower.look()) == 3
    text = (results.local_path / "sweep.yaml").read_text()
    (results.local_path / "sweep.yaml").write_text(text + "?")
    view = follower.look()
    assert "checksum" in view.line
    assert check(view) == 3  # what was seen last
    (results.local_path / "sweep.yaml").write_text(text)
    assert not follower.look().line
    (results.local_path / "sweep.yaml").unlink()  # as while the tree is deleted
    view = follower.look()
    assert view.line == f"{results}: sweep.yaml is gone; looking again"
    assert check(view) == 3  # what isn't trained yet isn't left out
    (results.local_path / "sweep.yaml").write_text(text)
    assert not follower.look().line
    monkeypatch.setattr(follower.tree.storage, "infos", _down)
    assert "is down" in follower.look().line
    assert check(follower.view) == 3


def _down(*arguments, **options):
    raise OSError("the store is down")


def watch_kills(results, kills):
    follower, chance, seen = Follower(str(results)), random.Random(kills), []
    with growing.writers(str(results), 0.02) as start:
        for number in range(kills):
            writer = start()
            before, began = check(follower.look()), time.monotonic()
            left = chance.uniform(0.0, 0.5)  # after the first cell, if it finishes one at all
            while left > 0 and time.monotonic() < began + 6:
                time.sleep(0.02)
                seen.append(check(follower.look()))
                left -= 0.05 * (seen[-1] > before)
            with contextlib.suppress(ProcessLookupError):  # it is done
                os.kill(writer, signal.SIGKILL)
            if seen[-1] == 30 or number % 7 == 6:
                time.sleep(0.1)
                shutil.rmtree(results.local_path, ignore_errors=True)
    return seen


def test_while_its_writers_are_killed(results):
    seen = watch_kills(results, 2)
    assert max(seen) > 0


@pytest.mark.slow
def test_while_its_writers_are_killed_fifty_times(results):
    seen = watch_kills(results, 50)
    assert len(set(seen)) > 10


@pytest.mark.slow
def test_on_an_object_store_that_fails(tmp_path):
    with failing_s3(0.05):
        results = Results(f"s3://{BUCKET}/root", "growing")
        follower = Follower(str(results))
        found = 0
        for number in range(4):
            growing.grow(results, random.Random(number), 0.0, cells=3)
            view = follower.look()
            found = check(view)
            assert found == 3 * (number + 1) or view.line
        assert check(follower.look()) == 12


def test_once(results, capsys):
    assert cli.main(["watch", str(results), "--once"]) == 1
    assert capsys.readouterr().err == f"error: {results}: no such folder\n"
    growing.grow(results, random.Random(0), 0.0, cells=12)
    assert cli.main(["watch", str(results), "--once"]) == 0
    out = capsys.readouterr().out
    assert "growing: <b>grows</b> & is watched" in out
    assert "12/30 cells  12 done" in out
    assert "nobody runs it now" in out
    assert "2^4 |" in out
    assert out.isascii()
    with pytest.raises(SystemExit):
        cli.main(["watch", str(results), "--every", "0.01"])
    assert "'0.01' is not allowed; allowed: 0.2 to 86400 seconds" in capsys.readouterr().err


def test_a_copy_with_another_name(results, capsys):
    growing.grow(results, random.Random(0), 0.0, cells=12)
    shutil.copytree(results.local_path, f"{results.local_path} (1)")
    assert check(Follower(f"{results} (1)").look()) == 12
    assert cli.main(["watch", f"{results} (1)", "--once"]) == 0
    assert "12/30 cells" in capsys.readouterr().out


def test_live_in_a_terminal(results, interruptible):
    """What a terminal gets: the map, redrawn in colours as it fills, until Ctrl-C."""
    import pty

    growing.grow(results, random.Random(0), 0.0, cells=12)
    master, slave = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "metaphase.sweeps.cli",
        "watch",
        str(results),
        "--every",
        "0.2",
    ]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "70", "LINES": "40"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    text = read_until(master, b"12 done")
    growing.grow(results, random.Random(0), 0.0)
    text += read_until(master, b"30 done")
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the other end is closed
        while read := os.read(master, 2**16):  # or what is written last would wait for a reader
            text += read
    assert process.wait(20) == 130
    os.close(master)
    assert b"\x1b[1;92mG" in text  # bold, bright green
    assert b"Traceback" not in text


def read_until(descriptor, word):
    text, end = b"", time.monotonic() + 60
    while word not in text:
        assert time.monotonic() < end, text
        text += os.read(descriptor, 65536)
    return text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_it_ends_where_nobody_can_see_it_any_more(results):
    growing.grow(results, random.Random(0), 0.0, cells=3)
    command = [sys.executable, "-m", "metaphase.sweeps.cli", "watch", str(results)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_imports_no_more_than_before():
    code = (
        "import sys; from metaphase.sweeps import cli; cli.main(['--help']);"
        "print([m for m in ('rich', 'pandas', 'torch', 'bokeh') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.endswith("[]\n")
    assert "watch" in out.stdout
