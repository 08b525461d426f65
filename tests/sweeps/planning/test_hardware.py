"""What a machine leaves to a process: by affinity and by real control groups, where these can be
made (by root, outside of most containers)."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metaphase.sweeps.planning import hardware
from tests.tools.namespaces import OWN_MOUNTS, needs_mounts, python

HELD = """
import sys
from metaphase.sweeps.planning import hardware
input()
print(hardware.cores(), hardware.memory())
"""
CGROUPS = Path("/sys/fs/cgroup")
VERSION_2 = (CGROUPS / "cgroup.controllers").exists()


@pytest.fixture
def group():
    """Makes control groups, one inside the other: (controller, {file: text} of each) -> what Python
    says of cores and memory in the innermost."""
    made = []

    def inside(controller, *levels):
        folder = CGROUPS if VERSION_2 else CGROUPS / controller
        try:
            for number, limits in enumerate(levels):
                if VERSION_2:
                    with contextlib.suppress(OSError):
                        (folder / "cgroup.subtree_control").write_text(f"+{controller}")
                folder /= f"metaphase-test-{os.getpid()}-{number}"
                folder.mkdir()
                made.append(folder)
                for name, text in limits.items():
                    (folder / name).write_text(text)
        except OSError as error:
            pytest.skip(f"no control groups can be made here: {error}")
        process = subprocess.Popen(
            [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        (folder / "cgroup.procs").write_text(str(process.pid))
        out, _ = process.communicate("\n", timeout=60)
        cores, memory = out.split()
        return int(cores), float(memory)

    yield inside
    for folder in reversed(made):
        for _ in range(50):
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def quota(cores):
    if VERSION_2:
        return {"cpu.max": f"{int(100_000 * cores)} 100000"}
    return {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": str(int(100_000 * cores))}


def limit(size):
    return {"memory.max" if VERSION_2 else "memory.limit_in_bytes": str(size)}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity_decides_the_workers_of_a_run_and_of_a_dry_run(tmp_path):
    preset = tmp_path / "tiny.yaml"
    preset.write_text("cell: {steps: 10}\ngrid: {seed: [0, 1, 2, 3]}\n")
    one = ("taskset", "-c", str(min(os.sched_getaffinity(0))))
    done = python("-m", "metaphase.sweeps.run", str(preset), "--dry-run", prefix=one)
    assert ", as for 1 x c" in done.stdout, done.stderr
    code = "from metaphase.sweeps.planning import hardware; print(hardware.cores())"
    done = python("-c", code, prefix=one)
    assert done.stdout == "1\n"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core is one core")
def test_quotas_of_control_groups_decide_cores(group):
    assert group("cpu", quota(1))[0] == 1
    assert group("cpu", quota(0.4))[0] == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core is one core")
def test_quotas_of_outer_control_groups_count(group):
    assert group("cpu", quota(1), {})[0] == 1


def test_a_part_of_a_core_counts_as_one(group):
    if hardware.cores() >= 2:
        assert group("cpu", quota(1.5))[0] == 2


def test_limits_of_control_groups_decide_memory(group):
    memory = group("memory", limit(300 * 2**20), {})[1]
    assert 100 * 2**20 < memory < 300 * 2**20  # Python itself takes some


FAKED = """
set -e
at=$(awk '$0 ~ / - cgroup2 / {print $5; exit}' /proc/self/mountinfo)
group="$at/metaphase-test-$$"
mkdir "$group"
trap 'umount "$group"; echo $$ > "$at/cgroup.procs"; rmdir "$group"' EXIT
echo $$ > "$group/cgroup.procs"
mount --bind "$1" "$group"
"$2" -c 'from metaphase.sweeps.planning import hardware; print(hardware.cores(), hardware.memory())'
"""


@needs_mounts
def test_version_2_is_read_where_its_controllers_are_not_ours_to_use(tmp_path):
    """A real group of version 2; its files are ours, as version 1 holds the controllers here."""
    if " - cgroup2 " not in Path("/proc/self/mountinfo").read_text():
        pytest.skip("no control groups of version 2 here")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.high").write_text("max\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    command = [*OWN_MOUNTS, "bash", "-c", FAKED, "bash", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        pytest.skip(f"no group can be made here: {done.stderr}")
    assert done.stdout == "1 500000.0\n"
