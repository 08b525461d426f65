"""Several nodes on one machine: one is killed, drained, or told to leave while it trains."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from metaphase.sweeps.store.results import Results
from tests import ROOT
from tests.sweeps.test_run import PRESET, assert_same, launch
from tests.tools.processes import descendants, kill

SHORT = ("--set", "steps=1500", "--set", "eval_every=250")
LONG = ("--set", "steps=4000", "--set", "eval_every=250")
SITE = ROOT / "tests" / "tools" / "chaos_site"  # with it, workers write checkpoints every 0.3 s


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head that trains nothing and two nodes of one core each; commands find it by address."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(SITE))
        patched.setenv("CHAOS_SEED", "0")
        patched.setenv("CHAOS_SHARE", "0")  # none dies in a write
        patched.setenv("CHAOS_LEASE", "60")
        # Or else commands that others run on this machine would find the cluster too.
        patched.setattr("ray._private.utils.write_ray_address", lambda *arguments: None)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            started.add_node(num_cpus=1)
        patched.setenv("RAY_ADDRESS", started.address)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(PRESET)
    return str(path)


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, (out, err)
    assert "Traceback" not in out + err


def check(preset, folder, settings):
    """The folder's sweep is that of an undisturbed run."""
    finish(launch(preset, folder / "undisturbed", *settings))
    assert_same(folder / "tiny", folder / "undisturbed" / "tiny")


def training(root, process, count=2):
    """{pid of a worker: its log} once `count` of them have trained and there are checkpoints."""
    results, deadline = Results(str(root), "tiny"), time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        logs = {int(p.stem.rpartition("-")[2]): p for p in root.glob("tiny/logs/worker-*.log")}
        busy = {pid: log for pid, log in logs.items() if "training" in log.read_text()}
        if len(busy) >= count and len(results.checkpoints.steps()) == 8:
            return busy
        time.sleep(0.05)
    raise AssertionError(f"no worker trained: {process.communicate()}")


def starts(root):
    """[(cells, from step)] of all packs' beginnings, in the order of time."""
    lines = sorted(
        line for log in root.glob("tiny/logs/worker-*.log") for line in log.read_text().splitlines()
    )
    found = [re.search(r"training (\d+) cells from step (\d+)", line) for line in lines]
    return [(int(m[1]), int(m[2])) for m in found if m]


def node_of(cluster, pid):
    """The node whose raylet is the parent of this process."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for node in cluster.worker_nodes:
        if node.all_processes["raylet"][0].process.pid == parent:
            return node
    raise AssertionError(f"process {pid} is on no node")


def steps_of_checkpoints(root):
    return Results(str(root), "tiny").checkpoints.steps()


@pytest.mark.slow
def test_a_node_that_dies_costs_at_most_one_checkpoint_interval(cluster, preset, tmp_path):
    process = launch(preset, tmp_path, *SHORT)
    worker = min(training(tmp_path, process))
    node = node_of(cluster, worker)
    before = steps_of_checkpoints(tmp_path)
    for pid in descendants(node.all_processes["raylet"][0].process.pid):  # all at once
        kill(pid)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    finish(process)
    check(preset, tmp_path, SHORT)
    (again,) = starts(tmp_path)[2:]
    assert again[1] >= min(before.values()) > 0


@pytest.mark.slow
def test_workers_and_nodes_that_are_to_go_leave_checkpoints(cluster, preset, tmp_path):
    process = launch(preset, tmp_path, *LONG)
    workers = training(tmp_path, process)
    told, drained = sorted(workers)
    os.kill(told, signal.SIGTERM)
    node = node_of(cluster, drained)
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--address", cluster.address, "--node-id", node.node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    command += ["--deadline-remaining-seconds", "300"]
    subprocess.run(command, check=True, capture_output=True)
    deadline = time.monotonic() + 120
    while not all("leaving" in log.read_text() for log in workers.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.remove_node(node)  # Ray ends a node that is to go once it is idle
    cluster.add_node(num_cpus=1)
    finish(process)
    check(preset, tmp_path, LONG)
    assert Counter(cells for cells, _ in starts(tmp_path)) == {4: 4}
    assert all(step > 0 for _, step in starts(tmp_path)[2:])
