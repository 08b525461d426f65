"""A local run's Ray can't be reached from other machines, by the kernel's list of what listens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.processes import descendants, sockets, tcp

CODE = """
import ray
from metaphase.sweeps.execution.ray_session import ray_running
from metaphase.sweeps.execution.scratch import scratch_folder
from tests.sweeps.execution.test_loopback import listening
with scratch_folder() as scratch, ray_running(scratch):
    ray.get(ray.remote(lambda: 0).remote())  # a worker, too
    print(*listening(), sep="\\n")
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def listening() -> list[str]:
    """Addresses on which this process and those below it listen for TCP."""
    ours = sockets({os.getpid(), *descendants(os.getpid())})
    return [address for address, _, listens, inode in tcp() if listens and inode in ours]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_ray_listens_on_loopback_only():
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    addresses = done.stdout.split()
    assert len(addresses) > 5
    assert set(addresses) <= LOOPBACK
