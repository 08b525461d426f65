"""What becomes of a run whose Ray dies: one line, and the exit status of who asked for it."""

import subprocess
import sys

import pytest

# Instead of a Ray that runs: of its node all that is asked is what has died.
CODE = """
import sys, time, types
import ray
from metaphase.sweeps.execution import ray_session
dead = types.SimpleNamespace(dead_processes=lambda: [("raylet", None)])
ray._private.worker._global_node = dead
ray_session.RAY_WATCH_SECONDS = 0.01
with ray_session._ends_with_ray(lambda: sys.argv[1] == "asked"):
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("who", "status", "line"),
    [
        ("nobody", 1, "error: Ray has died (raylet). The same command continues"),
        ("asked", 130, "Stopped. The same command continues"),  # SIGTERM reaches Ray as well
    ],
)
def test_a_run_whose_ray_dies_says_whether_it_was_asked_to_stop(who, status, line):
    done = subprocess.run([sys.executable, "-c", CODE, who], capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.endswith(f"\n{line}\n")
