"""A whole run where nothing is as it should be: it trains all the same."""

import os
import signal
import subprocess
import sys
import time

import pytest

from metaphase.sweeps.store.results import Results
from tests.sweeps.execution.test_cluster import nobody
from tests.sweeps.test_run import PRESET
from tests.tools.namespaces import NOBODY, needs_nobody

NAMELESS = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_nobody
def test_a_run_ends_well(short_folder, tmp_path):
    """A user without name, home and locale, a note of a Ray that is gone, an empty RAY_ADDRESS, one
    of the cores, a reader that leaves, and a terminal that ends while it trains."""
    preset, note = tmp_path / "tiny.yaml", short_folder / "ray" / "ray_current_cluster"
    preset.write_text(PRESET)
    note.parent.mkdir()
    note.write_text(nobody())
    odd = {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }
    environment = {k: v for k, v in os.environ.items() if k not in NAMELESS} | odd
    environment |= {"RAY_TMPDIR": str(short_folder), "RAY_ADDRESS": "", "RAY_worker_niceness": "0"}
    one = ("taskset", "-c", str(min(os.sched_getaffinity(0))))
    command = (sys.executable, "-m", "metaphase.sweeps.run", str(preset), "--root", str(tmp_path))
    process = subprocess.Popen(
        [*NOBODY, *one, *command, "--set", "steps=400"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert "8 of 8 cells to train" in process.stdout.readline()
    process.stdout.close()
    logs = tmp_path / "tiny" / "logs"
    while not list(logs.glob("worker-*")) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGHUP)
    err = process.stderr.read()
    assert process.wait() == 0, err
    assert err.startswith("Ray at 127.0.0.1:")
    assert err.count("\n") == 1
    results = Results(str(tmp_path), "tiny")
    assert len(results.finished()) == 8
    assert len(list(logs.glob("worker-*"))) == 1
    assert list(short_folder.iterdir()) == [note.parent]
    started = next(logs.glob("run-*")).read_text(encoding="utf-8")
    assert "Traceback" not in started
